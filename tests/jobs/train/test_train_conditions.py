"""Several conditions in one run: one bundle whose hints are dropped independently of each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scedit_cli import Bundle, SceditError, load_tuner
from scedit_cli.data.dataset import open_dataset, read_rows, write_rows
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs import train as job
from tests.jobs.train.conftest import assert_same_end
from tests.recorder import Recorder

BOTH = {"condition": None, "conditions": ["canny", "color"]}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conditions") / "scenes"
    write_scenes(folder, 6, size=64, kinds=("canny", "color"))
    return folder


@pytest.fixture(scope="module")
def together(recipe, scenes, tmp_path_factory):
    """Trains both conditions: together(folder=None, **sections) gives the run's folder."""

    def run(folder: Path | None = None, **sections) -> Path:
        folder = folder or tmp_path_factory.mktemp("runs") / "run"
        data = {"path": str(scenes)} | sections.pop("data", {})
        job.train(recipe(tuner=BOTH, data=data, **sections), out=folder)
        return folder

    return run


@pytest.fixture(scope="module")
def plain(together) -> Path:
    return together()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "tuner.safetensors")


def test_the_bundle_holds_a_tuner_of_each_condition_and_all_learn(plain):
    bundle = load_tuner(plain)
    assert isinstance(bundle, Bundle) and [each.condition for each in bundle.tuners] == ["canny", "color"]
    assert bundle.scales == (1.0, 1.0)
    for tuner in bundle.tuners:
        assert all(each.up.weight.abs().max() > 0 for each in tuner.maps)
        assert tuner.metadata["base_fingerprint"] == bundle.metadata["base_fingerprint"]
    assert "canny=canny.png --cond color=color.png" in (plain / "README.md").read_text()


def test_one_condition_is_the_run_of_today(recipe, tmp_path):
    job.train(recipe(), out=tmp_path / "one")
    job.train(recipe(tuner={"condition": None, "conditions": ["canny"]}), out=tmp_path / "list")
    assert_same_end(tmp_path / "one", tmp_path / "list")


def test_a_stopped_run_goes_on_bit_for_bit(plain, recipe, scenes, tmp_path):
    def stop(event):
        if getattr(event, "stage", "") == "training" and event.step == 2:
            raise KeyboardInterrupt

    wanted = recipe(tuner=BOTH, data={"path": str(scenes)})
    with pytest.raises(KeyboardInterrupt):
        job.train(wanted, out=tmp_path / "run", reporter=Recorder(stop))
    assert job.train(wanted, out=tmp_path / "run", resume=True).resumed_at == 2
    assert_same_end(plain, tmp_path / "run")


def test_parts_of_a_batch_add_up_to_it(plain, together):
    parts = weights(together(train={"micro_batch_size": 2}))
    # AdamW gives weights whose gradients are rounding errors whole steps in either direction, so not all are close.
    far = torch.cat([(value - parts[name]).abs().flatten() for name, value in weights(plain).items()])
    assert (far > 2e-4).double().mean() < 0.001 and far.mean() < 1e-5


def test_hints_are_dropped_by_condition(together, scenes, tmp_path):
    """Dropped canny images are black ones, and color images stay."""
    dropped = weights(together(data={"hint_dropout": {"canny": 1.0}}))
    write_scenes(tmp_path / "black", 6, size=64, kinds=("canny", "color"))
    for item in open_dataset(tmp_path / "black").items:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(item.conditions["canny"])
    black = weights(together(data={"path": str(tmp_path / "black")}))
    assert all(torch.equal(value, black[name]) for name, value in dropped.items())
    half = weights(together(data={"hint_dropout": 0.5}))
    assert any(not torch.equal(value, half[name]) for name, value in dropped.items())


def test_each_condition_is_dropped_by_itself(recipe, scenes, monkeypatch):
    """All four cases occur: both hints, either one, and none."""
    from scedit_cli.training import trainer

    seen = set()
    own = trainer.Trainer.output

    def watch(self, batch, *rest):
        hints = [batch.hints[kind].flatten(1).any(1).tolist() for kind in ("canny", "color")]
        seen.update(zip(*hints, strict=True))
        return own(self, batch, *rest)

    monkeypatch.setattr(trainer.Trainer, "output", watch)
    data = {"path": str(scenes), "hint_dropout": {"canny": 0.5, "color": 0.5}}
    job.train(recipe(tuner=BOTH, data=data, train={"steps": 8}), out=scenes.parent / "dropped")
    assert seen == {(True, True), (True, False), (False, True), (False, False)}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tuner": {"conditions": ["canny", "color"]}}, "they take the place of tuner.condition"),
        ({"tuner": {"condition": None, "conditions": ["canny", "canny"]}}, "canny is named twice"),
        ({"tuner": BOTH, "data": {"hint_dropout": {"depth": 0.5}}}, "depth is no condition of the tuner"),
        ({"tuner": BOTH, "data": {"make": ["depth"]}}, "the tuner does not take depth; it takes canny, color"),
    ],
)
def test_bad_recipes(recipe, sections, message):
    with pytest.raises(SceditError, match=message):
        recipe(**sections)


def test_a_condition_may_be_called_mask(recipe, tmp_path, dataset):
    """That is also the kind of the images which weigh the loss."""
    folder = tmp_path / "masked"
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns("cache"))
    write_rows(folder, [row | {"mask_file_name": row["canny_file_name"]} for _, row in read_rows(folder)])
    wanted = {"tuner": {"condition": "mask"}, "train": {"steps": 1, "ema_decay": 0.0}}
    plain, masked = (
        job.train(recipe(**wanted, data={"path": str(folder), "masked_loss": masked}), out=tmp_path / str(masked))
        for masked in (False, True)
    )
    assert load_tuner(plain.tuner).condition == "mask" and plain.loss != masked.loss
