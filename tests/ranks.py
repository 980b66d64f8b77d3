"""The processes of one launcher, by multiprocessing's fork server: they begin where what is slow to import is imported.

What a launcher itself does, such as its options and how it ends others, is not in here: those tests start a real one.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["scedit_cli.jobs.train", "scedit_cli.jobs.prepare", "scedit_cli.models.base", "diffusers"])


@dataclass(frozen=True)
class Rank:
    """One process of several, whose stdout and stderr go to files."""

    process: ForkServerProcess
    folder: Path

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text("utf-8")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text("utf-8")

    def is_running(self) -> bool:
        return self.process.is_alive()

    def kill(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 300.0) -> int:
        """Wait for the process and return its exit code.

        Raises:
            TimeoutError: it has not ended within so many seconds.
        """
        self.process.join(seconds)
        if self.is_running():
            raise TimeoutError(f"a process has not ended in {seconds} s: {self.err}")
        return self.process.exitcode


@contextlib.contextmanager
def ranks(folder: Path, *words: object, count: int = 2) -> Iterator[list[Rank]]:
    """Run `scedit` with `words` in `count` processes that no launcher ends where another fails; none lives on after."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    every = []
    for rank in range(count):
        place = folder / f"rank-{rank}"
        place.mkdir(parents=True, exist_ok=True)
        variables = os.environ | {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        every.append(Rank(_SERVER.Process(target=_scedit, args=(place, variables, [*map(str, words)])), place))
    try:
        for each in every:
            each.process.start()
        yield every
    finally:
        for each in every:
            each.process.kill()
            each.process.join()


def together(folder: Path, *words: object) -> tuple[dict[str, Any], str]:
    """Return what two processes write: the first's document, which stands alone on stdout, and both their stderr."""
    with ranks(folder, *words, "--json") as (first, second):
        codes = first.end(), second.end()
        assert codes == (0, 0), first.out + first.err + second.err
        assert second.out == ""
        return json.loads(first.out), first.err + second.err


def _scedit(folder: Path, variables: dict[str, str], words: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = ["scedit", *words]
    from scedit_cli.cli import main

    main()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
