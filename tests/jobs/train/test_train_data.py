"""What a run learns from reaches its steps: weights, masks, scenes, and what was encoded ahead."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scedit_cli.cli.train import settings
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset, read_rows, write_rows
from scedit_cli.data.scenes import example, write_scenes
from scedit_cli.jobs import train as job
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.scenes import HELD_OUT_SEED
from scedit_cli.utils.errors import SceditError
from tests import by_recipe, tiny
from tests.jobs.train.conftest import PICTURES, log_of
from tests.preparing import prepare
from tests.recorder import Note, Recorder


@pytest.fixture
def folder(dataset, tmp_path) -> Path:
    """A dataset folder of one's own."""
    return Path(shutil.copytree(dataset, tmp_path / "data"))


def add(folder: Path, column: str, values: list) -> None:
    write_rows(folder, [row | {column: value} for (_, row), value in zip(read_rows(folder), values, strict=True)])


def test_weights_of_pictures_weigh_their_losses(recipe, folder, tmp_path):
    plain = open_dataset(folder)
    base = load_base(tiny.pipeline_folder(tiny.SMALLEST))
    assert plain.weights == (1,) * PICTURES and cache_latents_and_text(plain, base).weights is None
    add(folder, "weight", [1, 0.5, "2", None, 1, 1])  # a number, or its text, as CSV has it
    weighed = open_dataset(folder)
    assert weighed.weights == (1, 0.5, 2, 1, 1, 1)
    cache = cache_latents_and_text(weighed, base)
    assert cache.weights.tolist() == [1, 0.5, 2, 1, 1, 1]
    every = range(PICTURES)
    assert cache.fingerprint(every) != cache_latents_and_text(plain, base).fingerprint(every), "a run knows them again"
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
    job.train(recipe(train={"steps": 1}), out=tmp_path / "plain")
    plain = log_of(tmp_path / "plain")[0]["loss"]
    left = np.arange(64)[None] < np.full((64, 1), 32)
    weights = np.where(left, 76, 29).astype(np.uint8)
    white, nothing = np.full_like(weights, 255), np.zeros_like(weights)
    found = {}
    for name, pixels in {
        "white": white,
        "black": nothing,
        "gray": weights,
        "opacity": np.dstack((white, weights)),
        "luminance": np.dstack((white * left, nothing, white * ~left)),  # red and blue
    }.items():
        for file in names:
            Image.fromarray(pixels).save(folder / file)
        job.train(wanted, out=tmp_path / name)
        found[name] = log_of(tmp_path / name)[0]["loss"]
    assert (found["white"], found["black"]) == (pytest.approx(plain, rel=1e-5), 0)
    assert found["opacity"] == found["gray"] == pytest.approx(found["luminance"], rel=1e-3)
    assert abs(found["gray"] / plain - 1) > 3e-3


def test_grids_show_held_out_scenes_in_the_look_of_the_data(dataset):
    wanted = Recipe.from_dict({"tuner": {"kind": "csc", "condition": "canny"}, "data": {"look": "pastel"}})
    shown = by_recipe.examples(wanted, open_dataset(dataset))
    expected = [example(HELD_OUT_SEED + number, ["canny"], 64, "pastel") for number in range(4)]
    assert [each.text for each in shown] == [each.text for each in expected]
    for one, other in zip(shown, expected, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.conditions["canny"], other.conditions["canny"])


@pytest.mark.parametrize("name", [None, "sd21-canny"])
def test_what_prepare_encodes_by_default_serves_recipes_as_they_are(dataset, tmp_path, name):
    """One that names no precision, and a built-in one."""
    folder, base = Path(shutil.copytree(dataset, tmp_path / "data")), tiny.pipeline_folder(tiny.SMALLEST)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    prepare(None, folder, cache=["latents", "text"], base=str(base))
    before = {file: file.stat().st_mtime_ns for file in (folder / "cache").rglob("*.safetensors")}
    sections = {
        "base": {"model": str(base)},
        "tuner": {"kind": "csc", "condition": "canny"},
        "data": {"path": str(folder)},
        "train": {"batch_size": 2},
    }
    sets = [f"base.model={base}", f"data.path={folder}", "train.batch_size=2"]
    events: list = []
    wanted = load_recipe(name, settings(sets)) if name else Recipe.from_dict(sections)
    job.train(wanted, dry_run=True, reporter=Recorder(events.append))
    assert {file: file.stat().st_mtime_ns for file in (folder / "cache").rglob("*.safetensors")} == before
    assert len(before) == 2 and not any("again" in event.text for event in events if isinstance(event, Note))


@pytest.fixture
def plain(tmp_path) -> Path:
    """A dataset folder without conditions."""
    write_scenes(tmp_path / "plain", PICTURES, size=64, kinds=())
    return tmp_path / "plain"


@pytest.mark.parametrize("kind", ["canny", "inpaint"])
def test_a_condition_that_no_picture_has_is_made_where_it_is_quick(recipe, plain, tmp_path, kind):
    """As if data.make had said so, and said in the run's own recipe; a resumed run makes it too."""
    losses = []
    for name, make in (("asked", [kind]), ("missing", [])):
        events: list = []
        wanted = recipe(tuner={"condition": kind}, data={"path": str(plain), "make": make}, train={"steps": 2})
        job.train(wanted, out=tmp_path / name, reporter=Recorder(events.append))
        told = [event.text for event in events if isinstance(event, Note) and "made while training" in event.text]
        assert len(told) == (name == "missing") and all(f"{plain} has no {kind} images" in each for each in told)
        assert load_recipe(tmp_path / name / "recipe.toml").data.make == [kind]
        losses.append([line["loss"] for line in log_of(tmp_path / name)])
    assert losses[0] == losses[1]
    if kind == "canny":
        assert job.train(wanted, out=tmp_path / "missing", resume=True).resumed_at == 2


def test_a_condition_that_some_pictures_lack_is_not_mixed_with_made_ones(recipe, folder, tmp_path):
    add(folder, "canny_file_name", [f"conditions/canny/{n:06d}.png" if n != 2 else None for n in range(PICTURES)])
    with pytest.raises(SceditError, match="line 3: 000002.png has no canny_file_name") as error:
        job.train(recipe(data={"path": str(folder)}), out=tmp_path / "run")
    assert f"`annotate({folder}, kinds=canny)`" in error.value.hint
    assert 'data.make = ["canny"]' in error.value.hint
    result = job.train(recipe(data={"path": str(folder), "make": ["canny"]}, train={"steps": 1}), out=tmp_path / "run")
    assert result.steps == 1


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("depth", r"`annotate\(.*plain, kinds=depth\)` makes them$"),
        ("thermal", r"nothing makes thermal: `prepare\(conditions=thermal=FOLDER\)` takes them"),
    ],
)
def test_a_condition_that_takes_a_network_is_not_made_while_training(recipe, plain, tmp_path, kind, hint):
    with pytest.raises(SceditError, match=f"tuner.condition is {kind}, and .*plain has no {kind}_file_name") as error:
        job.train(recipe(tuner={"condition": kind}, data={"path": str(plain)}), out=tmp_path / "run")
    assert re.search(hint, error.value.hint)


def test_a_first_dataset_is_smaller_than_a_batch(tmp_path):
    """Fourteen images and a built-in recipe: one is held out, the others come two or three times in a batch of 32."""
    write_scenes(tmp_path / "data", 14, size=64, kinds=("canny",))
    sets = [f"base.model={tiny.pipeline_folder('sd15')}", f"data.path={tmp_path / 'data'}", "train.steps=1"]
    wanted, events = load_recipe("sd15-canny", settings([*sets, "samples.every=0", "train.precision=fp32"])), []
    result = job.train(wanted, out=tmp_path / "run", reporter=Recorder(events.append))
    told = [event.text for event in events if isinstance(event, Note)]
    assert result.validation_loss is not None and (tmp_path / "run" / "tuner.safetensors").is_file()
    data = "data: 13 images, 1 more held out; fewer than a batch of 32, so each comes several times in a batch"
    assert any(each.startswith(data) for each in told)
    with pytest.raises(SceditError, match="validation.pictures: 32 of 14 images would be held out"):
        asked = load_recipe("sd15-canny", settings([*sets, "validation.pictures=32"]))
        job.train(asked, out=tmp_path / "other")


def test_a_run_on_images_of_ones_own_is_not_scored_on_scenes(dataset, tmp_path):
    sets = ["train.steps=1", "train.batch_size=2", f"data.path={dataset}", "samples.every=0", "score.scenes=1"]
    result = job.train(load_recipe("canny", settings(sets)), out=tmp_path / "run")
    assert (result.document()["control_score"], result.document()["consistency"]) == (None, None)
    assert "control score" not in dict(result.summary())


@pytest.mark.parametrize(("precision", "fits"), [("bf16", True), ("fp32", False)])
def test_text_that_prepare_encoded_serves_the_precision_it_was_made_for(recipe, folder, tmp_path, precision, fits):
    shutil.rmtree(folder / "cache", ignore_errors=True)
    prepare(None, folder, cache=["latents", "text"], base=str(tiny.pipeline_folder(tiny.SMALLEST)), precision=precision)
    before = set((folder / "cache").rglob("*.safetensors"))
    assert len(before) == 2
    wanted, events = recipe(data={"path": str(folder)}, train={"precision": "bf16"}), []
    job.train(wanted, dry_run=True, reporter=Recorder(events.append))
    new = set((folder / "cache").rglob("*.safetensors")) - before
    assert [file.parent.name.partition("-")[0] for file in new] == ([] if fits else ["text"])
    told = [event.text for event in events if isinstance(event, Note)]
    sentence = f"the captions in {folder}/cache are encoded in fp32 and train.precision is bf16: they are encoded again"
    assert any(sentence in each for each in told) != fits
    events.clear()
    job.train(wanted, dry_run=True, reporter=Recorder(events.append))
    assert not any("encoded again" in event.text for event in events if isinstance(event, Note))
