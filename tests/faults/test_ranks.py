"""One of two processes that train together is killed: the other ends soon, and the run goes on from where they were."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from scedit_cli.training.checkpoints import newest_checkpoint
from scedit_cli.training.trainer import Trainer
from tests.faults.forked import Child, each
from tests.faults.small import Small
from tests.ranks import free_port

A_MINUTE = 60.0


@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_ends_within_a_minute_and_the_run_goes_on(small: Small, tmp_path: Path, tried, killed: int) -> None:
    whole = tmp_path / "whole"
    assert [child.end().code for child in pair(small, whole)] == [0, 0]

    def scenario(step: int) -> None:
        out = tmp_path / f"run-{step}"
        processes = pair(small, out, dies=(killed, step))
        while processes[killed].is_running():
            time.sleep(0.01)
        began = time.monotonic()
        other = processes[1 - killed].end(A_MINUTE)
        assert time.monotonic() - began < A_MINUTE and other.code == 1, other
        assert processes[killed].end().code == -signal.SIGKILL
        newest, torn = newest_checkpoint(out / "checkpoints")
        last = newest.step if newest else 0
        assert not torn and last >= (step - step % 2 if killed == 0 else step), (last, step)
        if killed == 1:
            assert f"continues from step {last}" in json.loads(other.out)["error"]["hint"]
        again = [process.end() for process in pair(small, out, "--resume")]
        assert [ended.code for ended in again] == [0, 0] and (json.loads(again[0].out)["resumed_at"] or 0) == last
        assert (out / "tuner.safetensors").read_bytes() == (whole / "tuner.safetensors").read_bytes()
        assert not list(out.rglob(".*"))
        shutil.rmtree(out)

    each(scenario, [1, 3, 5], at_once=1)
    tried("processes killed that train with another one", 3)


def pair(small: Small, out: Path, *more: object, dies: tuple[int, int] = (-1, 0)) -> list[Child]:
    """Two processes whose launcher does not end the one where the other fails; `dies` tells the rank that is killed in
    the step after so many."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def rank(number: int) -> Child:
        def work() -> None:
            os.environ.update(place | {"RANK": str(number), "LOCAL_RANK": str(number)})
            backward = Trainer.backward

            def deadly(trainer: Trainer, batch):
                if (number, trainer.step) == dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                return backward(trainer, batch)

            Trainer.backward = deadly
            small.train(out, *more)()

        return Child(work)

    return [rank(0), rank(1)]
