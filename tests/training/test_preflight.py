from __future__ import annotations

import pytest
from diffusers import ControlNetModel

from scedit_cli.recipe import Recipe
from scedit_cli.training.preflight import controlnet_parameters, duration, look_ahead
from scedit_cli.training.processes import Processes
from scedit_cli.training.setup import fresh_tuner


def test_it_tells_what_will_be_trained(base):
    options = {"steps": 60, "batch_size": 4, "micro_batch_size": 2}
    sections = {"tuner": {"kind": "csc", "condition": "canny"}, "train": options}
    recipe = Recipe.from_dict(sections)
    tuner = fresh_tuner(recipe, base)
    ahead = look_ahead(recipe, base, tuner, 24, 3, Processes(0, 2))
    count = sum(each.numel() for each in tuner.parameters())
    controlnet = sum(each.numel() for each in ControlNetModel.from_unet(base.unet).parameters())
    assert ahead.trainable_parameters == count and controlnet_parameters(base) == controlnet
    assert ahead.of_controlnet == pytest.approx(count / controlnet)
    assert ahead.of_full == pytest.approx(count / sum(each.numel() for each in base.unet.parameters()))
    assert (ahead.epochs, ahead.held_out, ahead.processes) == (10, 3, 2)
    rows = dict(ahead.summary())
    assert f"{count:,} parameters" in rows["tuner"] and "10 epochs" in rows["steps"]
    assert "2 processes" in rows["training"] and "time" not in rows


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said
