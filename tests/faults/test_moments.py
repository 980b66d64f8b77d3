"""Training that is killed, or stopped, at random moments, again and again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

from scedit_cli.training.checkpoints import newest_checkpoint, read_checkpoint
from tests.faults.ends import assert_same_end, losses_in
from tests.faults.forked import Child, each, run
from tests.faults.small import EVERY, STEPS, Small

LOOPS, KILLS = 20, 10


def test_kills_at_random_moments(small: Small, tmp_path: Path, tried) -> None:
    """Two hundred of them, in loops of ten with a resume after each. No step that a checkpoint holds is lost, none is
    unreadable, and each loop's run comes to what it comes to undisturbed."""
    before = os.times()
    assert run(small.train(tmp_path / "timed")).code == 0
    length = sum(os.times()[2:4]) - sum(before[2:4])  # of processor time, which other work does not make longer

    def scenario(seed: int) -> tuple[int, int]:
        draw, out = Random(seed), tmp_path / f"loop-{seed}"
        reached = killed = amid = saving = 0
        while killed < KILLS:
            child = Child(small.train(out, "--resume"))
            if child.works(draw.uniform(0.0, 1.5 * length)):
                child.kill()
            ended = child.end()
            if ended.code == 0:
                assert_same_end(small.finished, out)
                shutil.rmtree(out)
                reached = 0
                continue
            assert ended.code == -signal.SIGKILL, ended
            killed += 1
            amid += 0 < len(logged(out)) < STEPS
            saving += any("~" in path.name for path in out.rglob("*"))
            reached = assert_nothing_lost(out, reached)
        last = run(small.train(out, "--resume"))
        assert last.code == 0 and (json.loads(last.out)["resumed_at"] or 0) == reached, last
        assert_same_end(small.finished, out)
        return amid, saving

    amid, saving = map(sum, zip(*each(scenario, range(LOOPS)), strict=True))
    assert amid > LOOPS * KILLS // 4 and saving, "most came before the first step or after the last"
    tried("kills of training at random moments", LOOPS * KILLS)


def test_stops_at_random_moments(small: Small, tmp_path: Path, tried) -> None:
    """Ctrl-C and SIGTERM keep the step in hand, whenever they come."""
    signals = {signal.SIGINT: 130, signal.SIGTERM: 143}

    def scenario(seed: int) -> None:
        draw, out = Random(seed), tmp_path / f"stop-{seed}"
        number = draw.choice(list(signals))
        wanted = draw.randrange(1, 6)
        child = Child(small.train(out))
        while len(logged(out)) < wanted and child.is_running():
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.05))
        child.kill(number)
        ended = child.end()
        if ended.code:
            assert ended.code == signals[number], ended
            assert "--resume" in json.loads(ended.out)["error"]["hint"]
            newest, torn = newest_checkpoint(out / "checkpoints")
            assert not torn and newest.step == len(logged(out)) >= wanted
        resumed = run(small.train(out, "--resume"))
        assert resumed.code == 0, resumed
        logs = [(folder / "log.jsonl").read_bytes() for folder in (out, small.finished)]
        assert losses_in(logs[0]) == losses_in(logs[1])
        assert (out / "tuner.safetensors").read_bytes() == (small.finished / "tuner.safetensors").read_bytes()
        shutil.rmtree(out)

    each(scenario, range(20))
    tried("Ctrl-C and SIGTERM at random moments of training", 20)


def assert_nothing_lost(out: Path, reached: int) -> int:
    """Every checkpoint can be read, and the newest is the last or the last but one of those that the log's steps have
    come to; returns its step."""
    paths = sorted((out / "checkpoints").glob("step-*"))
    for path in paths:
        read_checkpoint(path)
    step = int(paths[-1].name.removeprefix("step-")) if paths else 0
    due = max((line["step"] for line in logged(out)), default=0) // EVERY * EVERY
    assert step >= reached and step in (due, due - EVERY), (step, reached, due)
    return step


def logged(out: Path) -> list[dict]:
    log = out / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
