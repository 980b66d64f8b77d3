"""Two at once: one proceeds, the other is told who holds the place; the locks of dead processes are nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.locks import held, is_mine
from tests.faults.commands import COMMANDS
from tests.faults.ends import told
from tests.faults.forked import Child, each, points, run
from tests.faults.shim import Shim, Stop
from tests.faults.small import Small


def test_two_runs_on_one_folder(small: Small, tmp_path: Path, tried) -> None:
    out = tmp_path / "run"
    first = held_at("run/checkpoints/*", small.train(out), tmp_path)
    for more in ((), ("--resume",), ("--overwrite",)):
        said = told(run(small.train(out, *more)), 2)
        assert f"in use by process {first.pid} on {socket.gethostname()} since 20" in said and ".lock" in said
    first.kill(signal.SIGCONT)
    assert first.end().code == 0 and not (out / ".lock").exists()
    tried("second processes that are told who was first", 3)


def test_two_that_prepare_one_folder(small: Small, tmp_path: Path, tried) -> None:
    """While the pictures are taken in, and while they are encoded."""
    command = COMMANDS["prepare"]
    for number, moment in enumerate(("*~data/new/images/*", "data/cache/*")):
        place = command.made(small, tmp_path / f"{number}")
        first = held_at(moment, command.work(small, place), place)
        cached = small.program("prepare", "--out", place / "data", "--cache", "latents", "--base", small.base, "--json")
        for second in (command.work(small, place), cached):
            ended = run(second)
            if (place / "data").exists() or second is not cached:
                assert f"in use by process {first.pid} on" in told(ended, 2)
                tried("second processes that are told who was first")
        first.kill(signal.SIGCONT)
        assert first.end().code == 0
        assert not list(place.glob(".*"))


def test_the_lock_of_a_run_that_was_killed(small: Small, tmp_path: Path, tried) -> None:
    out = tmp_path / "run"
    first = held_at("run/checkpoints/*", small.train(out), tmp_path)
    first.kill()
    first.end()
    assert (out / ".lock").exists()
    ended = run(small.train(out, "--resume"))
    assert ended.code == 0 and not (out / ".lock").exists(), ended
    tried("stale locks")


def test_one_of_many_takes_a_stale_lock_over(tmp_path: Path, tried) -> None:
    """Eight processes at the same moment, fifty times: one holds it, seven are told so."""
    gone = Child(lambda: None)
    gone.end()
    stale = json.dumps({"pid": gone.pid, "host": socket.gethostname(), "started": time.time() - 60})

    def scenario(number: int) -> None:
        lock = tmp_path / f"{number}" / ".lock"
        lock.parent.mkdir()
        lock.write_text(stale)
        start, everybody = time.monotonic() + 0.05, lock.parent / "told"

        def work() -> str:
            time.sleep(max(0.0, start - time.monotonic()))
            try:
                with held(lock, lock.parent, "go away"):
                    everybody.open("a").write("holds\n")
                    while len(everybody.read_text().splitlines()) < 8:
                        assert is_mine(lock)
                        time.sleep(0.001)
                    return "holds"
            except SceditError:
                everybody.open("a").write("told\n")
                return "told"

        children = [Child(work) for _ in range(8)]
        assert sorted(child.end().value for child in children) == ["holds"] + ["told"] * 7
        assert sorted(os.listdir(lock.parent)) == ["told"]
        shutil.rmtree(lock.parent)

    each(scenario, range(50), at_once=1)
    tried("processes that race for a stale lock", 400)


def test_a_lock_is_whole_or_absent(tmp_path: Path, tried) -> None:
    """Killed while it is taken, a process leaves no lock, or one that says whose it is."""
    lock = tmp_path / "run" / ".lock"

    def take() -> None:
        with held(lock, lock.parent, "go away"):
            pass

    def counted() -> int:
        shim = Shim(tmp_path).arm()
        take()
        return shim.count

    operations = run(counted).value

    def scenario(at: int) -> None:
        assert run(lambda: (Shim(tmp_path, at).arm(), take())).code == -9
        if lock.exists():
            assert json.loads(lock.read_text())["host"] == socket.gethostname()
        assert run(take).code == 0
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    cases = points(operations, 100)
    each(scenario, cases, at_once=1)
    tried("locks whose taking was killed", len(cases))


def test_a_lock_of_another_host_or_number_is_respected(tmp_path: Path, tried) -> None:
    """The number of a process says nothing in a container: there the file itself is locked."""
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": 0.0}))
    with pytest.raises(SceditError, match="process 1 on elsewhere since"), held(lock, tmp_path, "go away"):
        pass
    lock.unlink()

    def holding() -> None:
        with held(lock, tmp_path, "go away"):
            told = json.loads(lock.read_text())
            lock.write_text(json.dumps(told | {"pid": 2**22 + 1}))  # which no process here has
            (tmp_path / "ready").touch()
            time.sleep(60)

    child = Child(holding)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    assert not psutil.pid_exists(2**22 + 1)
    with pytest.raises(SceditError, match=f"process {2**22 + 1} on"), held(lock, tmp_path, "go away"):
        pass
    child.kill()
    child.end()
    with held(lock, tmp_path, "go away"):
        assert is_mine(lock)
    tried("locks that cannot be judged by their process", 2)


def test_a_lock_that_another_process_has_now_is_left_alone(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with held(lock, tmp_path, "go away"):
        lock.unlink()
        lock.write_text("another's")
        assert not is_mine(lock)
    assert lock.read_text() == "another's"


def test_two_that_annotate_one_folder(small: Small, tmp_path: Path, tried) -> None:
    """Both go on, and neither loses what the other has entered."""
    place = COMMANDS["annotate"].made(small, tmp_path / "place")
    kinds = ("canny", "color", "blur", "gray")
    children = [Child(small.program("annotate", place / "data", "--cond", kind, "--json")) for kind in kinds]
    for child in children:
        ended = child.end()
        assert ended.code == 0, ended
    rows = [json.loads(line) for line in (place / "data" / "metadata.jsonl").read_text().splitlines()]
    assert all(f"{kind}_file_name" in row for row in rows for kind in kinds)
    assert json.loads((place / "data" / "licences.json").read_text()).keys() == set(kinds)
    tried("processes that annotate one folder together", len(kinds))


def held_at(pattern: str, work: Callable[[], object], folder: Path) -> Child:
    """A process that has stopped itself before its first operation on such a path below the folder."""
    child = Child(lambda: (Stop(folder, pattern=pattern).arm(), work()))
    while not child.has_stopped():
        time.sleep(0.01)
    return child
