"""Run folders: where a run goes, what it holds, and that one process at a time works on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from scedit_cli.errors import SceditError

RUNS = Path("runs")
_LOCK = ".lock"
_CLOCK = 5.0  # seconds by which a clock that is set anew may move a process's start


@dataclass(frozen=True)
class Run:
    """A run's folder, which need not exist yet, and the names of what is in it."""

    folder: Path

    @property
    def tuner(self) -> Path:
        return self.folder / "tuner.safetensors"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def curve(self) -> Path:
        return self.folder / "loss.png"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def card(self) -> Path:
        return self.folder / "README.md"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def _parts(self) -> tuple[Path, ...]:
        files = self.tuner, self.recipe, self.log, self.curve, self.card
        return *files, self.samples, self.checkpoints, self.tensorboard

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a run, or some of one."""
        return any(part.exists() for part in self._parts)

    def clear(self) -> None:
        """Removes the run, and nothing else that is in the folder."""
        for part in self._parts:
            shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def choose_run(name: str, out: str | Path | None, resume: bool = False, overwrite: bool = False) -> Run:
    """The run that a recipe called `name` goes to: `out`, else the next free one of runs/NAME, runs/NAME-2, ….

    With `resume` it is the last of them, with `overwrite` the first.

    Raises:
        SceditError: `out` is a file, or holds a run and neither `resume` nor `overwrite` says what to do with it.
    """
    if resume and overwrite:
        raise SceditError("--resume goes on with a run and --overwrite replaces it", hint="give one of them")
    if out is not None:
        run = Run(Path(out).expanduser())
        if run.folder.exists() and not run.folder.is_dir():
            raise SceditError(f"--out {out} is a file", hint="name a folder")
        if run.is_begun and not (resume or overwrite):
            raise SceditError(
                f"--out {out} already holds a run",
                hint="name another folder, go on with it by --resume, or replace it by --overwrite",
            )
        return run
    numbered = re.compile(rf"{re.escape(name)}(?:-([2-9]|[1-9]\d+))?")
    folders = RUNS.iterdir() if RUNS.is_dir() else ()
    last = max((int(found[1] or 1) for folder in folders if (found := numbered.fullmatch(folder.name))), default=0)
    number = 1 if overwrite else max(last, 1) if resume else last + 1
    return Run(RUNS / (f"{name}-{number}" if number > 1 else name))


@contextmanager
def claimed(run: Run) -> Iterator[Run]:
    """The run for this process alone: makes its folder with a lock in it, which names this process.

    Afterwards the lock is gone, and so are the folders made for it if nothing came to be in them.

    Raises:
        SceditError: another process works on the run, or the folder cannot be made.
    """
    folder = run.folder.absolute()
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(lock)
    except OSError as error:
        raise SceditError(
            f"{run.folder} cannot be written to: {error.strerror}", hint="name another folder with --out"
        ) from error
    try:
        yield run
    finally:
        lock.unlink(missing_ok=True)
        with suppress(OSError):  # the first that holds something ends it
            for place in made:
                place.rmdir()


def _take(lock: Path) -> None:
    """Writes the lock; one whose process is gone is taken over."""
    own = psutil.Process()
    text = json.dumps({"pid": own.pid, "host": socket.gethostname(), "started": own.create_time()})
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if holder := _holder(lock):
                raise SceditError(
                    f"{lock.parent} is in use by {holder}",
                    hint=f"wait for it, or name another folder with --out; if it is surely gone, remove {lock}",
                ) from None
            lock.unlink(missing_ok=True)
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return


def _holder(lock: Path) -> str | None:
    """Who holds the lock, in words; None if its process is gone. A process is its number together with when it
    started, since numbers are given again."""
    try:
        holder = json.loads(lock.read_text("utf-8"))
        pid, host, started = int(holder["pid"]), str(holder["host"]), float(holder["started"])
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        return "another process"
    if host != socket.gethostname():
        return f"process {pid} on {host}"
    try:
        lives = abs(psutil.Process(pid).create_time() - started) < _CLOCK
    except psutil.NoSuchProcess:
        lives = False
    return f"process {pid}" if lives else None
