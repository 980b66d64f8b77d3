"""Processes that are to end: at Ctrl-C, at once at the second, and when what they work for is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import pbkdf2_hmac
from pathlib import Path

import psutil
import pytest
from diffusers import UNet2DConditionModel

from scedit_cli.core import blend
from scedit_cli.jobs import bench, prepare
from scedit_cli.models.base import Base
from scedit_cli.training.checkpoints import newest_checkpoint
from scedit_cli.training.trainer import Trainer
from tests import tiny
from tests.faults.commands import COMMANDS, SHOW
from tests.faults.forked import Child, Ended
from tests.faults.small import Small
from tests.faults.test_moments import logged

AT_ONCE = 30.0  # seconds, where it would take minutes
SOON = 180.0


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_the_second_signal_ends_it_whatever_it_is_in(small: Small, tmp_path: Path, tried, number: int, code: int):
    """In the middle of a step, in a call of a library that hears no signal for minutes."""
    out = tmp_path / "run"

    def train() -> None:
        backward = Trainer.backward

        def endless(trainer: Trainer, batch):
            if trainer.step == 3:
                hear_nothing(tmp_path / "in")
            return backward(trainer, batch)

        Trainer.backward = endless
        small.train(out)()

    child = Child(train)
    while not (tmp_path / "in").exists():
        assert child.is_running()
        time.sleep(0.01)
    child.kill(number)
    assert not child.wait(1.0)
    child.kill(number)
    began = time.monotonic()
    ended = child.end(SOON)
    assert ended.code == code and time.monotonic() - began < AT_ONCE, ended
    assert "stopped at once" in ended.err and "Traceback" not in ended.err
    newest, torn = newest_checkpoint(out / "checkpoints")
    assert newest.step == 2 and not torn
    assert resumed(small, out)["resumed_at"] == 2
    tried("second signals in the middle of a step")


@pytest.mark.parametrize("name, of, part", [
    ("prepare", Base, "encode_images"), ("generate", UNet2DConditionModel, "forward"), ("merge", blend, "merge"),
    ("bench", bench, "draw_quality"),
])  # fmt: skip
def test_the_second_ctrl_c_ends_every_command(small: Small, tmp_path: Path, tried, name: str, of, part: str) -> None:
    """In a call of a library that hears no signal for minutes."""
    command = SHOW if name == "bench" else COMMANDS[name]
    place = command.made(small, tmp_path / "place")

    def endless(*args, **kwargs) -> None:
        hear_nothing(tmp_path / "in")

    def work() -> None:
        setattr(of, part, endless)
        command.work(small, place)()

    child = Child(work)
    while not (tmp_path / "in").exists():
        assert child.is_running()
        time.sleep(0.01)
    child.kill(signal.SIGINT)
    assert not child.wait(1.0)
    child.kill(signal.SIGINT)
    began = time.monotonic()
    ended = child.end(SOON)
    assert ended.code == 130 and time.monotonic() - began < AT_ONCE, ended
    assert "stopped at once" in ended.err and "Traceback" not in ended.err
    again = Child(command.work(small, place)).end()
    assert again.code == 0 and command.content(place), again
    tried("second signals in the middle of a command")


@pytest.mark.parametrize("name", ["prepare", "annotate", "generate", "merge"])
def test_ctrl_c_ends_every_command(small: Small, tmp_path: Path, tried, name: str) -> None:
    """Within a moment, with one sentence, and the same command afterwards finishes the work."""
    command, codes = COMMANDS[name], []
    for part in range(5):
        place = command.made(small, tmp_path / f"{part}")
        work, begun = command.work(small, place), tmp_path / f"begun-{part}"
        child = Child(lambda work=work, begun=begun: listening(work, begun))
        while not begun.exists():
            assert child.is_running()
            time.sleep(0.001)
        time.sleep(0.01 + 0.04 * part)
        child.kill(signal.SIGINT)
        ended = child.end(SOON)
        codes.append(ended.code)
        assert ended.code in (0, 130) and "Traceback" not in ended.err, ended
        again = Child(command.work(small, place)).end()
        assert again.code == 0 or ended.code == 0 or "exists already" in again.out, again
        assert not list(place.rglob(".*"))
    assert 130 in codes, "it was over before it heard one"
    tried("Ctrl-C in other commands", 5)


@pytest.mark.parametrize("way, delay", [(signal.SIGKILL, 3.0), (signal.SIGINT, 3.0), (signal.SIGINT, 0.3)],
                         ids=["killed", "Ctrl-C", "Ctrl-C while they start"])  # fmt: skip
@pytest.mark.parametrize("name", ["prepare", "annotate", "bench"])
def test_workers_do_not_outlive_their_parent(tmp_path: Path, tried, name: str, way: int, delay: float) -> None:
    """Those that render, annotate and measure in processes of their own. Ctrl-C goes to all of them, as a terminal
    sends it, and none but the parent speaks of it."""
    arguments = {
        "prepare": ["prepare", "--scenes", "5000", "--out", tmp_path / "many"],
        "annotate": ["annotate", tmp_path / "data", "--cond", "canny,color", "--processes", "2"],
        "bench": ["bench", "--base", tiny.pipeline_folder("sd15"), "--methods", "sc,csc", "--steps", "5000"],
    }[name]
    if name == "annotate":
        prepare.prepare(prepare.Scenes(30), tmp_path / "data", size=64)
        for path in (tmp_path / "data" / "images").iterdir():
            for number in range(1, 400):
                os.link(path, path.with_stem(f"{path.stem}-{number}"))
        rows = [{"file_name": f"images/{path.name}", "text": ""} for path in (tmp_path / "data" / "images").iterdir()]
        (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "scedit_cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "err").open("wb") as err:
        parent = subprocess.Popen(command, env=environment, stdout=err, stderr=err, start_new_session=True)
    until = time.monotonic() + SOON
    while not (workers := workers_of(parent.pid)):
        assert parent.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    time.sleep(delay)  # in the middle of their work, or still starting
    workers += [worker for worker in workers_of(parent.pid) if worker not in workers]
    parent.kill() if way == signal.SIGKILL else os.killpg(parent.pid, way)
    assert parent.wait(SOON) == (-signal.SIGKILL if way == signal.SIGKILL else 130)
    _, left = psutil.wait_procs(workers, timeout=SOON)
    for worker in left:
        worker.kill()
    assert not left, left
    assert "Traceback" not in (tmp_path / "err").read_text()
    tried("workers whose parent ends", len(workers))


def hear_nothing(inside: Path) -> None:
    """Be in a call of a library for minutes, in which no handler of Python runs. A thread creates `inside` once the call
    takes processor time: a signal that came before it would be heard at once."""
    clock = time.pthread_getcpuclockid(threading.get_ident())
    begun = time.clock_gettime(clock)

    def tell() -> None:
        while time.clock_gettime(clock) < begun + 0.05:
            time.sleep(0.005)
        inside.touch()

    threading.Thread(target=tell, daemon=True).start()
    pbkdf2_hmac("sha256", b"", b"", 10**9)


def listening(work: Callable[[], None], begun: Path) -> None:
    """Run `work`, and create `begun` once the program has its own handler for Ctrl-C. What is forked from this process
    has long been a program when it starts; a Ctrl-C before or after the program's handler says nothing about it."""
    install = signal.signal

    def noted(number: int, handler):
        if number != signal.SIGINT:
            return install(number, handler)
        before = install(number, signal.SIG_IGN if begun.exists() else handler)
        begun.touch()
        return before

    signal.signal = noted
    work()


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process] if "spawn_main" in " ".join(process.cmdline()) else []
    return found


def resumed(small: Small, out: Path) -> dict:
    ended: Ended = Child(small.train(out, "--resume")).end()
    assert ended.code == 0 and len(logged(out)) == 6, ended
    return json.loads(ended.out)
