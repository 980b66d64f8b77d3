"""Every recipe for a full-size base, on a tiny one of its topology: a step of the whole job on fourteen images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scedit_cli.cli.train import settings
from scedit_cli.core.weights import load_tuner
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs import train as job
from scedit_cli.recipe import builtin_recipes, load_recipe
from tests import tiny

NAMES = [name for name in builtin_recipes() if name.partition("-")[0] in tiny.FAMILIES]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Fourteen scenes of 64 x 64 pixels whose edges stand for every kind of condition that a recipe names."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 14, size=64, kinds=("canny",))
    kinds = {load_recipe(name).tuner.condition for name in NAMES} - {None}
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows = [row | {f"{kind}_file_name": row["canny_file_name"] for kind in kinds} for row in rows]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name, dataset, tmp_path):
    base = tiny.pipeline_folder(name.partition("-")[0])
    sets = [f"base.model={base}", f"data.path={dataset}", "train.steps=1", "train.batch_size=2", "samples.every=0"]
    result = job.train(recipe := load_recipe(name, settings(sets)), out=tmp_path / "run")
    tuner = load_tuner(result.tuner)
    assert result.steps == 1 and (tuner.kind, tuner.condition) == (recipe.tuner.kind, recipe.tuner.condition)
    assert any(each.up.weight.any() for each in tuner.maps), "it has learned something"
    assert (result.validation_loss is None) == (tuner.kind == "sc"), "one of fourteen is held out"
