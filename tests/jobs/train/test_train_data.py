"""What a run learns from reaches its steps: weights, masks, scenes, and what was encoded ahead."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scedit_cli.base import load_base
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset, read_rows, write_rows
from scedit_cli.errors import SceditError
from scedit_cli.jobs import train as job
from scedit_cli.jobs.prepare import prepare
from scedit_cli.jobs.progress import Note
from scedit_cli.recipe import Recipe
from scedit_cli.training import setup
from tests import tiny
from tests.jobs.train.conftest import PICTURES, log_of


@pytest.fixture
def folder(dataset, tmp_path) -> Path:
    """A dataset folder of one's own."""
    return Path(shutil.copytree(dataset, tmp_path / "data"))


def add(folder: Path, column: str, values: list) -> None:
    write_rows(folder, [row | {column: value} for (_, row), value in zip(read_rows(folder), values, strict=True)])


def test_weights_of_pictures_weigh_their_losses(recipe, folder, tmp_path):
    plain = open_dataset(folder)
    base = load_base(tiny.pipeline_folder("sd21"))
    assert plain.weights == (1,) * PICTURES and cache_latents_and_text(plain, base).weights is None
    add(folder, "weight", [1, 0.5, "2", None, 1, 1])  # a number, or its text, as CSV has it
    weighed = open_dataset(folder)
    assert weighed.weights == (1, 0.5, 2, 1, 1, 1)
    assert cache_latents_and_text(weighed, base).weights.tolist() == [1, 0.5, 2, 1, 1, 1]
    add(folder, "weight", [0] * PICTURES)
    job.train(recipe(data={"path": str(folder)}, train={"steps": 1}), out=tmp_path / "none")
    assert [line["loss"] for line in log_of(tmp_path / "none")] == [0]
    for wrong in (-1, True, "much"):
        add(folder, "weight", [0, wrong, *[0] * (PICTURES - 2)])
        with pytest.raises(SceditError, match=f"line 2: weight is {wrong!r}"):
            job.train(recipe(data={"path": str(folder)}), out=tmp_path / "run")


def test_masks_of_the_dataset_weigh_the_loss(recipe, folder, tmp_path):
    wanted = recipe(data={"path": str(folder), "masked_loss": True}, train={"steps": 1})
    with pytest.raises(SceditError, match="000000.png has no mask_file_name"):
        job.train(wanted, out=tmp_path / "run")
    (folder / "conditions" / "mask").mkdir()
    names = [f"conditions/mask/{number:06d}.png" for number in range(PICTURES)]
    add(folder, "mask_file_name", names)
    losses = []
    for shade in (255, 0):
        for name in names:
            Image.new("L", (64, 64), shade).save(folder / name)
        run = tmp_path / str(shade)
        job.train(wanted, out=run)
        losses += [line["loss"] for line in log_of(run)]
    job.train(recipe(train={"steps": 1}), out=tmp_path / "plain")
    plain = log_of(tmp_path / "plain")[0]["loss"]
    assert losses == [pytest.approx(plain, rel=1e-5), 0]
    left = np.arange(64)[None] < np.full((64, 1), 32)
    weights = np.where(left, 76, 29).astype(np.uint8)
    white, nothing = np.full_like(weights, 255), np.zeros_like(weights)
    found = []
    for name, pixels in {
        "gray": weights,
        "opacity": np.dstack((white, weights)),
        "luminance": np.dstack((white * left, nothing, white * ~left)),  # red and blue
    }.items():
        for file in names:
            Image.fromarray(pixels).save(folder / file)
        job.train(wanted, out=tmp_path / name)
        found.append(log_of(tmp_path / name)[0]["loss"])
    assert found[1] == found[0] and found[2] == pytest.approx(found[0], rel=1e-3)
    assert abs(found[0] / plain - 1) > 3e-3


def test_scenes_are_rendered_as_the_recipe_says(dataset, monkeypatch):
    asked = []
    monkeypatch.setattr(setup, "rendered_scenes", lambda *args: asked.append(args[:4]) or open_dataset(dataset))
    data = {"scenes": 7, "seed": 3, "look": "pastel"}
    wanted = Recipe.from_dict({"tuner": {"kind": "csc", "condition": "canny"}, "data": data})
    setup.find_dataset(wanted, load_base(tiny.pipeline_folder("sd21")))
    assert asked == [(7, 3, "pastel", ["canny"])]
    monkeypatch.setattr(setup, "held_out_scenes", lambda *args: asked.append(args) or [])
    setup.examples(wanted, open_dataset(dataset))
    assert asked[1] == (4, 0, ["canny"], 64, "pastel")


@pytest.mark.parametrize(("precision", "fits"), [("bf16", True), ("fp32", False)])
def test_text_that_prepare_encoded_serves_the_precision_it_was_made_for(recipe, folder, tmp_path, precision, fits):
    shutil.rmtree(folder / "cache", ignore_errors=True)
    prepare(None, folder, cache=["latents", "text"], base=str(tiny.pipeline_folder("sd21")), precision=precision)
    before = set((folder / "cache").rglob("*.safetensors"))
    assert len(before) == 2
    wanted, events = recipe(data={"path": str(folder)}, train={"precision": "bf16"}), []
    job.train(wanted, dry_run=True, on_event=events.append)
    new = set((folder / "cache").rglob("*.safetensors")) - before
    assert [file.parent.name.partition("-")[0] for file in new] == ([] if fits else ["text"])
    told = [event.text for event in events if isinstance(event, Note)]
    sentence = f"the captions in {folder}/cache are encoded in fp32 and train.precision is bf16: they are encoded anew"
    assert any(sentence in each for each in told) != fits
    events.clear()
    job.train(wanted, dry_run=True, on_event=events.append)
    assert not any("encoded anew" in event.text for event in events if isinstance(event, Note))
