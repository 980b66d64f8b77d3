"""Memory that runs out, grows, or is held by processes that nobody waits for any more."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from scedit_cli.benchmark import compare, measure
from scedit_cli.cli.train import settings
from scedit_cli.core import blend, source
from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs import train as job
from scedit_cli.models.base import Base
from scedit_cli.recipe import load_recipe
from scedit_cli.training import builders
from scedit_cli.training.trainer import Trainer
from tests.faults.commands import COMMANDS
from tests.faults.ends import assert_same_end, told
from tests.faults.forked import run
from tests.faults.small import PICTURES, Small, load_once
from tests.recorder import Progress, Recorder

ERRORS: dict[str, Callable[[], Exception]] = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 23.68 GiB"),
    "CPU": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you"),
    "Python": MemoryError,
    "system": lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
}
SOAK, WARM = 3000, 500  # steps


@pytest.mark.parametrize("kind", ERRORS)
def test_training_tells_what_to_lower(small: Small, tmp_path: Path, tried, kind: str) -> None:
    """The state before the step that did not fit is kept, and goes on in smaller parts to the same end."""
    out = tmp_path / "run"

    def starve() -> None:
        backward = Trainer.backward

        def hungry(trainer: Trainer, batch):
            if trainer.step == 3:
                raise ERRORS[kind]()
            return backward(trainer, batch)

        Trainer.backward = hungry
        small.train(out)()

    said = told(run(starve), 1)
    assert "memory ran out after step 3" in said and "train.micro_batch_size=1" in said
    assert "about 3.0 GiB are needed" in said and "train.memory=checkpoint" in said
    assert "--resume continues from step 3" in said
    resumed = run(small.train(out, "--resume"))
    assert json.loads(resumed.out)["resumed_at"] == 3
    assert (out / "tuner.safetensors").read_bytes() == (small.finished / "tuner.safetensors").read_bytes()
    smaller = run(small.train(tmp_path / "smaller", sets=["train.micro_batch_size=1"]))
    assert smaller.code == 0, smaller
    tried("memory that runs out")


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("name, of, part, hint", [
    ("generate", UNet2DConditionModel, "forward", "fewer images at once"),
    ("prepare", Base, "encode_images", "--size"), ("prepare", Base, "encode_prompts", "--size"),
    ("merge", blend, "merge", "merge fewer at once"), ("merge", source, "safe_open", "merge fewer at once"),
])  # fmt: skip
def test_other_commands_tell_what_to_lower(small, tmp_path, tried, kind, name, of: Any, part: str, hint: str) -> None:
    command = COMMANDS[name]
    place = command.made(small, tmp_path / "place")

    def starve() -> None:
        def hungry(*args, **kwargs):
            raise ERRORS[kind]()

        setattr(of, part, hungry)
        command.work(small, place)()

    said = told(run(starve), 1)
    assert "memory ran out" in said and hint in said
    again = run(command.work(small, place))
    assert again.code == 0, again
    tried("memory that runs out")


def test_a_method_that_does_not_fit_leaves_the_others_their_figures(small: Small, tried) -> None:
    def starve() -> None:
        loss_of = measure.loss_of

        def hungry(trainable, *args):
            if trainable.takes_hint:
                raise ERRORS["system"]()
            return loss_of(trainable, *args)

        measure.loss_of, compare.measure_apart = hungry, measure.measure
        sizes = ("--base", "scenes", "--batch", "1", "--resolution", "64", "--steps", "1")
        small.program("bench", "--methods", "sc,csc", *sizes, "--json")()

    ended = run(starve)
    results = {each["method"]: each["peak_memory"] for each in json.loads(ended.out)["results"]}
    assert ended.code == 0 and results["sc"] and results["csc"] is None
    said = r"memory ran out while csc was measured: about \d\.\d\d GiB are estimated .*--batch or --resolution"
    assert re.search(said, ended.err), ended
    tried("memory that runs out")


def test_three_thousand_steps_take_no_more_memory_than_five_hundred(tmp_path: Path, tried) -> None:
    """The embedded base and the recipe of its CSC-Tuner, one picture at a time: memory from where it has settled, and
    open files. The pictures are of 64 pixels and not of 128, at which the same steps take 1.7 times as long."""
    write_scenes(tmp_path / "data", PICTURES, size=64, kinds=("canny",))
    sets = [f"data.path={tmp_path / 'data'}", f"train.steps={SOAK}", "train.batch_size=1", "train.log_every=10"]
    sets += ["train.checkpoint_every=100", "samples.every=250", "samples.count=1", "samples.steps=1", "score.scenes=0"]

    def train() -> list[int]:
        descriptors = []

        def watch(event: object) -> None:
            if isinstance(event, Progress) and event.stage == "training" and event.step % 100 == 0:
                descriptors.append(len(os.listdir("/proc/self/fd")))

        job.train(load_recipe("canny", settings(sets)), out=tmp_path / "run", reporter=Recorder(watch))
        return descriptors

    ended = run(train)
    assert ended.code == 0, ended
    descriptors = ended.value
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    memory = {line["step"]: line["memory"] for line in lines}
    assert max(memory) == SOAK and len(descriptors) == SOAK // 100
    before = max(memory[step] for step in memory if WARM - 100 < step <= WARM)
    after = max(memory[step] for step in memory if step > WARM)
    assert after < 1.02 * before, f"{before / 2**20:.1f} MiB became {after / 2**20:.1f} MiB"
    assert len(set(descriptors[WARM // 100 :])) == 1, descriptors
    tried("steps of a soak of the embedded training", SOAK)


def test_a_run_twice_in_one_process_is_the_same(small: Small, tmp_path: Path) -> None:
    def twice() -> None:
        builders.load_base = load_once
        for name in ("one", "two"):
            job.train(load_recipe(small.recipe), out=tmp_path / name)

    ended = run(twice)
    assert ended.code == 0, ended
    assert_same_end(tmp_path / "one", tmp_path / "two")
