"""What a base cannot draw is told before the training for it."""

from __future__ import annotations

import pytest

from scedit_cli.errors import SceditError
from scedit_cli.recipe import Recipe
from scedit_cli.training import setup
from tests import tiny


def _recipe(family: str, **samples) -> Recipe:
    base = {"model": str(tiny.pipeline_folder(family))}
    data = {"path": "dataset"}
    return Recipe.from_dict({"base": base, "data": data, "tuner": {"kind": "sc"}, "samples": samples})


@pytest.mark.parametrize(("family", "steps"), [("lcm", 60), ("sd21", 1000)])
def test_steps_that_the_grids_cannot_have_are_told_before_training(family, steps):
    with pytest.raises(SceditError, match=f"samples.steps is {steps}: scheduler .* cannot take {steps} steps"):
        setup.open_base(_recipe(family, steps=steps))


def test_grids_that_are_not_drawn_need_no_steps():
    assert setup.open_base(_recipe("lcm", steps=60, every=0)).family == "sd15"
    assert setup.open_base(_recipe("lcm", steps=50)).family == "sd15"
