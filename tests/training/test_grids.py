"""The score on a run's grids: each condition is measured as it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.data.annotation import digest_of, record_of, save_condition
from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.recipe import Recipe
from scedit_cli.training import sample_grids
from tests import by_recipe

PICTURES = 3


@pytest.fixture
def folder(tmp_path) -> Path:
    """Photos whose edges at 20/60 are others than those at 100/200, and are their canny conditions."""
    [order] = make_specs(["canny"], ["low=20", "high=60"])
    (tmp_path / "images").mkdir()
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(90, 160, (64, 64, 3), dtype=np.uint8)
        photo = Image.fromarray(noise).resize((24, 24)).resize((64, 64))
        place = tmp_path / "images" / f"{number}.png"
        photo.save(place)
        settings = order.settings("")
        record = record_of(order, settings, digest_of(place))
        save_condition(order.load(settings)([photo])[0], tmp_path / "conditions/canny" / place.name, record)
    write_rows(tmp_path, [row_of(f"{number}.png", "", ("canny",)) for number in range(PICTURES)])
    return tmp_path


def recipe(folder: Path, condition: str = "canny", **data) -> Recipe:
    return Recipe.from_dict(
        {
            "base": {"model": "b"},
            "tuner": {"kind": "csc", "condition": condition},
            "data": {"path": str(folder)} | data,
            "samples": {"count": PICTURES},
        }
    )


@pytest.fixture
def followed(base, monkeypatch) -> Callable[[Recipe], list[float]]:
    """How photos that a perfect tuner would draw follow their conditions."""

    def measure(wanted: Recipe) -> list[float]:
        shown = by_recipe.examples(wanted, open_dataset(wanted.data.path))
        drawn, seen = [each.image for each in shown], []
        monkeypatch.setattr(sample_grids, "sample", lambda *args, **options: drawn)
        monkeypatch.setattr(sample_grids.conditions, "control_score", lambda with_, *bounds: seen.append(with_))
        sample_grids.SampleGrids(base, shown, wanted.samples).draw(SimpleNamespace(scales=1.0))
        return seen[0]

    return measure


def test_a_photo_follows_edges_of_whatever_thresholds(followed, folder):
    """Those that the condition picture tells, those of data.params, those drawn for each picture; else the usual."""
    assert followed(recipe(folder)) == [1.0] * PICTURES
    assert followed(recipe(folder, make=["canny"], params=["low=20", "high=60"])) == [1.0] * PICTURES
    assert followed(recipe(folder, make=["canny"], params=["low=5..40", "high=60"])) == [1.0] * PICTURES
    for file in (folder / "conditions/canny").iterdir():
        Image.open(file).save(file, pnginfo=None)
    assert all(each < 0.9 for each in followed(recipe(folder)))


def test_conditions_of_a_network_that_weighs_are_not_scored(base, folder, monkeypatch):
    for file in (folder / "conditions/canny").iterdir():
        record = {"kind": "depth", "annotator": "midas", "parameters": {}}
        save_condition(Image.open(file), folder / "conditions/depth" / file.name, record)
    write_rows(folder, [row_of(f"{number}.png", "", ("depth",)) for number in range(PICTURES)])
    shown = by_recipe.examples(recipe(folder, "depth"), open_dataset(folder))
    monkeypatch.setattr(sample_grids, "sample", lambda *args, **options: [each.image for each in shown])
    drawn = sample_grids.SampleGrids(base, shown, recipe(folder).samples)
    drawn.draw(SimpleNamespace(scales=1.0))
    assert {each.makers["depth"].by for each in shown} == {"midas"} and drawn.score is None


def test_conditions_whose_alpha_counts_keep_it(folder):
    (folder / "conditions/inpaint").mkdir()
    for number in range(PICTURES):
        Image.new("RGBA", (64, 64), (200, 100, 0, 9)).save(folder / "conditions/inpaint" / f"{number}.png")
    write_rows(folder, [row_of(f"{number}.png", "", ("inpaint",)) for number in range(PICTURES)])
    shown = by_recipe.examples(recipe(folder, "inpaint"), open_dataset(folder))
    assert {each.conditions["inpaint"].getpixel((0, 0)) for each in shown} == {(200, 100, 0, 9)}
