"""Two processes on one machine, over gloo: really started, since nothing less shows that they agree, by a launcher
where the processes do as alone and where the base is spread, and else by tests/ranks.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scedit_cli.cli.train import settings
from scedit_cli.jobs import train as job
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.ranks import Rank, ranks, together

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
ACCELERATE = (
    *("accelerate.commands.launch", "--num_processes=2", "--num_machines=1", "--main_process_port=0"),
    *("--mixed_precision=no", "--dynamo_backend=no"),
)


@pytest.fixture
def recipe(mixed, tmp_path) -> Path:
    """Batches of five pictures of one size, of which two processes have two and three, in parts of one and two."""
    plain = Recipe.from_dict(
        {
            "base": {"model": str(tiny.pipeline_folder(tiny.SMALLEST))},
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(mixed.path), "caption_dropout": 0.3},
            "train": {
                "steps": 3, "batch_size": 5, "micro_batch_size": 2, "learning_rate": 1e-4, "ema_decay": 0.5,
                "checkpoint_every": 0, "noise_offset": 0.1, "timesteps": "logit-normal", "precision": "fp32",
            },
            "samples": {"every": 0},
            "validation": {"pictures": 1, "every": 3},
        }
    )  # fmt: skip
    file = tmp_path / "together.toml"
    file.write_text(plain.to_toml())
    return file


def test_two_processes_learn_what_one_does(recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    alone = job.train(load_recipe(recipe), out=one)
    document, _ = by_two(recipe, two)
    assert document["steps"] == 3
    assert document["validation_loss"] == pytest.approx(alone.validation_loss, rel=1e-5)
    assert document["loss"] == pytest.approx(alone.loss, rel=1e-5)
    for name in ("tuner", "average"):
        a, b = (load_file(run / "checkpoints" / "step-000003" / f"{name}.safetensors") for run in (one, two))
        assert max((a[key].float() - b[key].float()).abs().max().item() for key in a) < 1e-5
    names = [{path.relative_to(run).as_posix() for path in run.rglob("*")} for run in (one, two)]
    assert names[0] == names[1]


def test_a_process_that_dies_leaves_a_checkpoint(recipe, tmp_path):
    run = tmp_path / "run"
    with pair(recipe, run, ["train.steps=5000"]) as (first, second):
        wait_for_steps(run, first, second)
        second.kill(signal.SIGKILL)
        code = first.end()
    error = json.loads(first.out)["error"]
    assert code == 1 and "of 2 processes together" in error["message"]
    (checkpoint,) = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert step == len(logged(run)) and f"continues from step {step}" in error["hint"]
    resumed = job.train(load_recipe(recipe, settings([f"train.steps={step + 1}"])), out=run, resume=True)
    assert (resumed.resumed_at, resumed.steps) == (step, step + 1)

    whole = tmp_path / "whole"
    job.train(load_recipe(recipe, settings([f"train.steps={step + 1}"])), out=whole)
    a, b = (load_file(folder / "tuner.safetensors") for folder in (run, whole))
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5


def test_a_signal_to_one_of_them_ends_both_after_the_same_step(recipe, tmp_path):
    run = tmp_path / "run"
    with pair(recipe, run, ["train.steps=5000"]) as (first, second):
        wait_for_steps(run, first, second)
        second.kill(signal.SIGTERM)
        assert (first.end(), second.end()) == (143, 143)
    assert "SIGTERM" in json.loads(first.out)["error"]["message"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{len(logged(run)):06d}"]


def test_only_what_the_libraries_below_say_means_that_another_is_gone():
    closed = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]")
    assert Processes(0, 2).has_lost_one(closed) and not Processes().has_lost_one(closed)
    assert Processes(0, 2).has_lost_one(torch.distributed.DistNetworkError("reset"))
    assert not Processes(0, 2).has_lost_one(RuntimeError("Expected all tensors to be on the same device"))


def test_a_base_that_is_spread_over_processes_learns_the_same(recipe, tmp_path):
    """By accelerate's FSDP2 configuration; with samples and a held-out loss, in which all processes must take part."""
    sets = ["samples.every=3", "samples.count=1", "samples.steps=1", "train.steps=3"]
    alone = job.train(load_recipe(recipe, settings(sets)), out=tmp_path / "one")
    document, told = by_two(recipe, tmp_path / "two", sets, (*ACCELERATE, "--use_fsdp", "--fsdp_version=2"))
    assert "2 processes, each with a part of the base" in told
    assert document["validation_loss"] == pytest.approx(alone.validation_loss, rel=1e-5)
    a, b = (load_file(tmp_path / run / "tuner.safetensors") for run in ("one", "two"))
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5
    assert (tmp_path / "two" / "samples" / "step-000003.png").exists()


def test_a_base_that_is_spread_is_not_offloaded_too(monkeypatch):
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(SceditError, match="offloaded") as refused:
        Processes(0, 2).shard(torch.nn.Linear(1, 1))
    assert "--fsdp_offload_params false" in refused.value.hint


def test_processes_share_what_is_to_be_encoded(recipe, mixed, tmp_path):
    folder = fresh(mixed.path, tmp_path)
    together(tmp_path, *train(recipe, tmp_path / "two", [f"data.path={folder}", "train.steps=1"]))
    assert [len(list(each.glob("*.safetensors"))) for each in (folder / "cache").iterdir() if each.is_dir()] == [2, 2]
    assert not list(folder.glob(".seen-by-*"))


def test_a_picture_that_one_process_cannot_read_ends_all(recipe, mixed, tmp_path):
    folder = fresh(mixed.path, tmp_path)
    torn = folder / "images" / "1.png"  # the second process'
    torn.write_bytes(torn.read_bytes()[:-2000])
    with pair(recipe, tmp_path / "run", [f"data.path={folder}"]) as (first, second):
        assert (first.end(), second.end()) == (2, 2)
    assert "1.png" in json.loads(first.out)["error"]["message"] and not (tmp_path / "run").exists()


def test_machines_that_do_not_see_one_folder_encode_for_themselves(tmp_path, monkeypatch):
    assert Processes().share_of(tmp_path) == (0, 1)
    monkeypatch.setattr(Processes, "by_first", lambda processes, work: work())
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes, found = Processes(3, 4, 1), [True] * 4
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda every, own: every.__setitem__(slice(4), found))
    assert processes.share_of(tmp_path) == (3, 4)
    found[2:] = False, False
    assert processes.share_of(tmp_path) == (1, 2)


def fresh(dataset: Path, folder: Path) -> Path:
    """A copy of the dataset of which nothing is encoded."""
    return Path(shutil.copytree(dataset, folder / "data", ignore=shutil.ignore_patterns("cache")))


def train(recipe: Path, out: Path, sets: Sequence[str] = ()) -> list[str]:
    return ["train", "--recipe", str(recipe), *(word for each in sets for word in ("--set", each)), "--out", str(out)]


def pair(recipe: Path, run: Path, sets: Sequence[str]) -> AbstractContextManager[list[Rank]]:
    return ranks(run.parent, *train(recipe, run, sets), "--json")


def by_two(recipe: Path, out: Path, sets: Sequence[str] = (), launcher: Sequence[str] = TORCHRUN) -> tuple[dict, str]:
    """What two processes, started by a launcher, write to stdout and stderr: the first alone speaks, one document."""
    command = [sys.executable, "-m", *launcher, "-m", "scedit_cli", *train(recipe, out, sets), "--json"]
    answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return json.loads(answer.stdout), answer.stderr


def wait_for_steps(run: Path, *processes: Rank) -> None:
    """Returns when two steps are logged; the processes must live until then."""
    until = time.monotonic() + 300
    while len(logged(run)) < 2:
        assert time.monotonic() < until and all(process.is_running() for process in processes)
        time.sleep(0.1)


def logged(run: Path) -> list[str]:
    log = run / "log.jsonl"
    return log.read_text().splitlines() if log.exists() else []
