"""Work in processes forked from this one, in which everything that is slow to load is loaded already.

The parent has no threads of its own when it forks: see `one_thread` in conftest.py.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

BROKEN = 70  # exit code of work that raised what no program of ours lets through
_PATIENCE = 900.0  # seconds: a busy machine is no hang, and only what hangs takes them
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that killed it; what it wrote, and what `work` gave."""

    code: int
    out: str
    err: str
    value: Any = None

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Child:
    """`work`, running in a forked process. Its stdout and stderr go to files; the process is a group of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="scedit-fault-")
        self._files = [Path(self._folder.name) / name for name in ("out", "err", "value")]
        for file in self._files[:2]:
            file.touch()  # a process may be killed before it opens them
        sys.stdout.flush()
        # One that comes before the process has handlers of its own would be raised where the tests are.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        parent, self.pid = os.getpid(), os.fork()
        if self.pid == 0:
            _become(parent, work, *self._files)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def is_running(self) -> bool:
        """Whether it has not ended yet; it stays to be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def end(self, seconds: float = _PATIENCE) -> Ended:
        """Waits for it; one that takes longer is told where it stands, by faulthandler, and killed."""
        if not self.wait(seconds):
            with suppress(ProcessLookupError):
                self.kill(signal.SIGUSR1)
                time.sleep(0.5)
                os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        out, err = (file.read_text("utf-8", errors="replace") for file in self._files[:2])
        value = pickle.loads(self._files[2].read_bytes()) if self._files[2].exists() else None
        self._folder.cleanup()
        return Ended(os.waitstatus_to_exitcode(status), out, err, value)

    def has_stopped(self) -> bool:
        """Whether it has stopped itself by SIGSTOP, and not ended."""
        options = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        changed = os.waitid(os.P_PID, self.pid, options)
        assert changed is None or changed.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED), self.end()
        return changed is not None and changed.si_code == os.CLD_STOPPED

    def works(self, seconds: float) -> bool:
        """Whether it works on after so many seconds of processor time: those of a busy machine are no longer."""
        process = psutil.Process(self.pid)
        while self.is_running():
            times = process.cpu_times()
            if times.user + times.system >= seconds:
                return True
            time.sleep(0.002)
        return False

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        until = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True


def run(work: Callable[[], Any], seconds: float = _PATIENCE) -> Ended:
    """`work` in a forked process, to its end."""
    return Child(work).end(seconds)


def each(scenario: Callable[[T], Any], cases: Iterable[T], at_once: int = 2, seconds: float = _PATIENCE) -> list[Any]:
    """What `scenario` gives for each case, every one in a forked process (which may fork others), some side by side.

    Raises:
        AssertionError: some failed; it tells the first of them, and how many there are.
    """
    waiting, running, given, failed = list(enumerate(cases)), {}, {}, {}
    while waiting or running:
        while waiting and len(running) < at_once:
            number, case = waiting.pop(0)
            running[number] = case, Child(lambda case=case: scenario(case)), time.monotonic() + seconds
        for number, (case, child, until) in list(running.items()):
            if child.is_running() and time.monotonic() < until:
                continue
            del running[number]
            ended = child.end(0.0)
            given[number] = ended.value
            if ended.code:
                failed[number] = f"case {case!r}: {ended}"
        time.sleep(0.002)
    if failed:
        raise AssertionError(f"{len(failed)} of {len(given)} cases failed; the first: {failed[min(failed)]}")
    return [given[number] for number in sorted(given)]


def program(*arguments: object) -> Callable[[], Any]:
    """The program `scedit` with these arguments, as work for a forked process."""

    def work() -> None:
        from scedit_cli.cli import main

        sys.argv = ["scedit", *map(str, arguments)]
        main()

    return work


def _become(parent: int, work: Callable[[], Any], out: Path, err: Path, value: Path) -> None:
    """The forked process, which never returns: one that did would end as the tests' own process, and take their
    temporary folders with it."""
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nor does it outlive a parent that is killed
        if os.getppid() == parent:
            _exit_of(work, out, err, value)
    finally:  # a signal may come between any two lines
        os._exit(BROKEN)


def _exit_of(work: Callable[[], Any], out: Path, err: Path, value: Path) -> None:
    code = BROKEN
    try:
        os.setpgid(0, 0)
        for number, file in ((1, out), (2, err)):
            descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Left open when they are collected: a process forked from this one has the same numbers.
        sys.stdin, sys.stdout, sys.stderr = (open(at, mode, closefd=False) for at, mode in enumerate(("r", "w", "w")))
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        given = work()
        if given is not None:
            value.write_bytes(pickle.dumps(given))
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass
        os._exit(code)


def points(count: int, most: int) -> Sequence[int]:
    """At most `most` numbers of 1 … `count`, evenly spread, with both ends."""
    if count <= most:
        return range(1, count + 1)
    return sorted({1 + round(place * (count - 1) / (most - 1)) for place in range(most)})
