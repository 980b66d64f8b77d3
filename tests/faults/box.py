"""A box to try hostile input in: forked children that are watched, so that a crash, a hang or a bomb is one outcome."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scedit_cli.utils.errors import SceditError

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")
AT_ONCE = 2
_PATIENCE = 6
_SENTENCE, _SHOWN = 1000, 600  # letters
_HEADROOM = 6 * GIB  # of address space, over what the child starts with: a bomb ends as an error and not the machine


@dataclass(frozen=True)
class Outcome:
    """How one case ended: `what` is "fine", "refused" (a sentence of ours), "raised" (anything else), "hung" or
    "died"; `said` the result, sentence or end of the traceback; `seconds` of processor time and `grown` (bytes of
    memory at the peak, over those before) are measured."""

    case: Any
    what: str
    said: str
    seconds: float = 0.0
    grown: int = 0

    def __str__(self) -> str:
        told = self.said[-_SHOWN // 2 :]
        return f"{self.what} after {self.seconds:.1f} s and {self.grown / GIB:.2f} GiB: {told}: {self.case}"


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder that no disk slows down, where the system has one."""
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def try_each(
    cases: Sequence[Any], work: Callable[[Any], object], seconds: float, at_once: int = AT_ONCE
) -> list[Outcome]:
    """`work(case)` for each case in forked children, `at_once` of them side by side. A child that is silent for
    `_PATIENCE` times `seconds` is killed, and another goes on after the case: a busy machine is no hang."""
    shares = [list(range(first, len(cases), at_once)) for first in range(min(at_once, len(cases)))]
    outcomes: dict[int, Outcome] = {}
    children = [_Child(cases, share, work) for share in shares]
    while running := [child for child in children if child.todo]:
        wait([child.pipe for child in running], timeout=0.2)
        for child in running:
            outcomes |= child.look(seconds)
    for child in children:
        child.process.join()
    return [outcomes[index] for index in range(len(cases))]


def faults(outcomes: Sequence[Outcome], seconds: float, memory: int = GIB) -> str:
    """Those that are neither read nor refused in a sentence of readable length, or that took too much; a line each."""
    return "\n".join(
        str(each)[:_SHOWN]
        for each in outcomes
        if each.what not in ("fine", "refused")
        or each.seconds > seconds
        or each.grown > memory
        or (each.what == "refused" and not 10 < len(each.said) < _SENTENCE)
    )


class _Child:
    """A forked process that works through some of the cases and tells of each as it begins and ends."""

    def __init__(self, cases: Sequence[Any], todo: list[int], work: Callable[[Any], object]) -> None:
        self.cases, self.todo, self.work = cases, todo, work
        self._fork()

    def _fork(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, other = context.Pipe(duplex=False)
        self.process = context.Process(target=_work_off, args=(self.cases, list(self.todo), self.work, other))
        self.process.start()
        other.close()
        self.began = time.monotonic()

    def look(self, seconds: float) -> dict[int, Outcome]:
        """What has ended since the last look."""
        ended: dict[int, Outcome] = {}
        try:
            while self.todo and self.pipe.poll():
                heard = self.pipe.recv()
                index = self.todo.pop(0)
                ended[index] = Outcome(self.cases[index], *heard)
                self.began = time.monotonic()
        except EOFError:
            self.process.join()
            ended |= self._lost("died", f"exit code {self.process.exitcode}")
        if self.todo and time.monotonic() - self.began > _PATIENCE * seconds:
            self.process.kill()
            self.process.join()
            ended |= self._lost("hung", f"killed after {_PATIENCE * seconds} s")
        return ended

    def _lost(self, what: str, said: str) -> dict[int, Outcome]:
        index = self.todo.pop(0)
        if self.todo:
            self._fork()
        return {index: Outcome(self.cases[index], what, said)}


def _work_off(cases: Sequence[Any], todo: list[int], work: Callable[[Any], object], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write to it whatever Python does
    limit = _memory("VmSize") + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for index in todo:
        _forget_peak()
        before, began = _memory("VmRSS"), time.process_time()
        try:
            what, said = "fine", str(work(cases[index]))
        except SceditError as error:
            what, said = "refused", str(error)
        except BaseException:
            what, said = "raised", "".join(traceback.format_exc().splitlines(keepends=True)[-5:])
        pipe.send((what, said, time.process_time() - began, _memory("VmHWM") - before))
    os._exit(0)  # nothing of the parent's is to be finished here


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _memory(what: str) -> int:
    """Bytes, of what the kernel tells under that name."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))
