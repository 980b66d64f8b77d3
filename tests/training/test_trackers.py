from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from scedit_cli.recipe import Recipe
from scedit_cli.training.trackers import Trackers


def recipe(*names: str) -> Recipe:
    return Recipe.from_dict({"tuner": {"kind": "sc"}, "tracking": {"to": list(names), "project": "mine"}})


def trackers_of(wanted: Recipe, folder: Path) -> Trackers:
    return Trackers(wanted.tracking, wanted.model_dump(), folder)


def test_tensorboard_gets_figures_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = trackers_of(recipe("tensorboard"), tmp_path)
    for step in (1, 2):
        trackers.log({"step": step, "loss": 0.5 / step, "gradient_norm": None}, step)
    trackers.show("samples", Image.new("RGB", (12, 8), "red"), 2)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "mine")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    (picture,) = events.Images("samples")
    assert (picture.step, picture.width, picture.height) == (2, 12, 8)


def test_none_is_the_default(tmp_path):
    trackers = trackers_of(recipe(), tmp_path)
    trackers.log({"loss": 0.5}, 1)
    trackers.close()
    assert list(tmp_path.iterdir()) == []
