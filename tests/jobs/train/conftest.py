"""Runs of a few steps on a tiny base, for all tests of `train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scedit_cli.core.weights import load_tuner
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs import train as job
from scedit_cli.recipe import Recipe
from scedit_cli.training import loop
from scedit_cli.training.memory import Forecast
from tests import tiny
from tests.recorder import Recorder

PICTURES, BATCH = 6, 4  # an epoch ends in the middle of the second batch
TIMED = ("seconds", "waited", "memory")  # what no two runs have alike


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A step on fake tensors for each run would count among those that the tests count; curves take longer than steps,
    and the one of `finished` is a real one."""
    monkeypatch.setattr(job, "forecast", lambda *_: Forecast({"weights": 2**20, "activations": 2**21}))
    monkeypatch.setattr(loop, "draw_curve", lambda *_: None)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Scenes of 64 x 64 pixels with their edges."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, PICTURES, size=64, kinds=("canny",))
    return folder


@pytest.fixture(scope="session")
def recipe(dataset):
    """Makes a recipe for the tiny base, from changes to a plain one."""

    def make(**sections: dict) -> Recipe:
        plain = {
            "base": {"model": str(tiny.pipeline_folder(tiny.SMALLEST))},
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(dataset), "caption_dropout": 0.3},
            "train": {
                "steps": 4, "batch_size": BATCH, "learning_rate": 0.01, "checkpoint_every": 0, "ema_decay": 0.5,
                "precision": "fp32",
            },
            "samples": {"every": 0},
        }  # fmt: skip
        for section, changes in sections.items():
            plain.setdefault(section, {}).update(changes)
        return Recipe.from_dict(plain)

    return make


@pytest.fixture(scope="session")
def finished(recipe, tmp_path_factory):
    """A run of four steps: its result, folder, recipe and events."""
    folder, events = tmp_path_factory.mktemp("runs") / "finished", []
    wanted = recipe(train={"checkpoint_every": 2}, samples={"every": 3, "count": 2, "steps": 2})
    return job.train(wanted, out=folder, reporter=Recorder(events.append)), folder, wanted, events


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def assert_same_end(one: Path, other: Path) -> None:
    """Two runs came to the same weights, averages, moments and log, in every bit."""
    for name in ("tuner", "average", "optimizer"):
        a, b = (load_file(folder / "checkpoints" / "step-000004" / f"{name}.safetensors") for folder in (one, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert log_of(one) == log_of(other)
    assert all(
        torch.equal(a, b)
        for a, b in zip(load_tuner(one).parameters(), load_tuner(other).parameters(), strict=True)
    )
