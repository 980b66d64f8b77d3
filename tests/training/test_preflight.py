from __future__ import annotations

from dataclasses import replace

import pytest
from diffusers import ControlNetModel

from scedit_cli.models.controlnet import controlnet_parameters
from scedit_cli.recipe import Recipe
from scedit_cli.training.preflight import duration, look_ahead, scarce_sizes
from scedit_cli.utils.distributed import Processes
from tests import by_recipe


def test_it_tells_what_will_be_trained(base):
    options = {"steps": 60, "batch_size": 4, "micro_batch_size": 2}
    sections = {"tuner": {"kind": "csc", "condition": "canny"}, "train": options}
    recipe = Recipe.from_dict(sections)
    tuner = by_recipe.fresh_tuner(recipe, base)
    ahead = look_ahead(recipe.train, base, tuner, 24, 3, Processes(0, 2))
    count = sum(each.numel() for each in tuner.parameters())
    controlnet = sum(each.numel() for each in ControlNetModel.from_unet(base.unet).parameters())
    assert ahead.tuner.trainable_parameters == count and controlnet_parameters(base.unet) == controlnet
    assert ahead.tuner.of_controlnet == pytest.approx(count / controlnet)
    assert ahead.tuner.of_full == pytest.approx(count / sum(each.numel() for each in base.unet.parameters()))
    assert (ahead.data.epochs, ahead.data.held_out, ahead.step.processes) == (10, 3, 2)
    rows = dict(ahead.summary())
    assert f"{count:,} parameters" in rows["tuner"] and "10 epochs" in rows["steps"]
    assert "2 processes" in rows["training"] and not {"time", "memory"} & rows.keys()


def test_pictures_that_come_again_within_a_batch_are_told(base):
    recipe = Recipe.from_dict({"tuner": {"kind": "sc"}, "train": {"batch_size": 4}})
    assert scarce_sizes([0, 0, 0, 0, 1, 2, 2], 4) == 2

    def row(*pictures) -> str:
        return dict(look_ahead(recipe.train, base, by_recipe.fresh_tuner(recipe, base), *pictures).summary())["data"]

    again = "comes several times in a batch, each time with another noise"
    assert row(3, 0, Processes(), None, 1) == f"3 images; fewer than a batch of 4, so each {again}"
    assert row(7, 0, Processes(), None, 2).endswith(f"; of 2 sizes fewer than a batch of 4, so each of those {again}")
    assert row(4, 0, Processes()) == "4 images"


def test_a_warm_up_that_does_not_end_is_told(base):
    def row(**train) -> str:
        recipe = Recipe.from_dict({"tuner": {"kind": "sc"}, "train": train})
        tuner = by_recipe.fresh_tuner(recipe, base)
        return dict(look_ahead(recipe.train, base, tuner, 24, 0, Processes()).summary())["steps"]

    assert row(steps=20, warmup=500).endswith("; train.warmup is 500: the learning rate is never reached")
    assert row(steps=20, warmup=19).endswith(" epochs")


def test_memory_is_told_beside_what_is_here(base):
    recipe = Recipe.from_dict({"tuner": {"kind": "sc"}})
    ahead = look_ahead(recipe.train, base, by_recipe.fresh_tuner(recipe, base), 24, 0, Processes())

    def row(**changes) -> str:
        return dict(replace(ahead, **changes).summary())["memory"]

    gib = 2**30
    assert ahead.memory_here > gib
    fits = row(estimated_peak_memory=3 * gib, memory_here=24 * gib)
    assert fits == "about 3 GiB at the peak of a step, of 24 GiB on this cpu"
    assert "more than the 24 GiB on this cpu: `fit=True` finds" in row(estimated_peak_memory=30 * gib, memory_here=24 * gib)
    assert row(not_estimated="not estimated for a reason") == "not estimated for a reason"


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said
