"""Locks: files that name the one process that works at a place."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import read_json, write_new

_CLOCK = 5.0  # seconds by which setting the clock may move a process's start


@contextmanager
def held(lock: Path, place: Path, hint: str) -> Iterator[None]:
    """Reserve `place` for this process inside the block, by writing the file `lock`; its folder is created. Afterwards
    the lock is removed, and so are the folders created for it if they are empty.

    The lock of a process that has ended is taken over, if that process ran on this host.

    Raises:
        SceditError: another process holds the lock, or it cannot be written; `hint` says what to do then.
    """
    lock = lock.absolute()
    made = [folder for folder in lock.parents if not folder.exists()]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        _take(lock, place, hint)
    except (OSError, SceditError) as error:
        _remove(made)
        if isinstance(error, SceditError):
            raise
        raise SceditError(f"{place} cannot be written to: {error.strerror}", hint=hint) from error
    try:
        with _marked(lock):
            yield
    finally:
        if is_mine(lock):  # if it was removed by hand, another process may have taken the place
            with suppress(OSError):
                lock.unlink()
            _remove(made)


def check_free(lock: Path, place: Path, hint: str) -> None:
    """Raise SceditError if a running process holds the lock of `place`; `hint` says what else can be done."""
    if holder := _holder(lock):
        raise SceditError(
            f"{place} is in use by {holder}", hint=f"wait for it, or {hint}; if it is surely gone, remove {lock}"
        )


def is_mine(lock: Path) -> bool:
    """Return whether this process still holds the lock."""
    lock = lock.absolute()
    try:
        return lock.read_text("utf-8") == _text_of(os.getpid())
    except OSError:
        return False


def _remove(folders: list[Path]) -> None:
    with suppress(OSError):  # stops at the first folder that is not empty
        for folder in folders:
            folder.rmdir()


def _take(lock: Path, place: Path, hint: str) -> None:
    with alone(lock.parent):  # so that only one process takes over a stale lock
        while not write_new(lock, _text_of(os.getpid()).encode()):
            check_free(lock, place, hint)
            lock.unlink(missing_ok=True)


@cache
def _text_of(pid: int) -> str:
    """Return the text of a process's locks; cached, since the start that psutil reports changes if the clock is set."""
    return json.dumps({"pid": pid, "host": socket.gethostname(), "started": psutil.Process(pid).create_time()})


def _holder(lock: Path) -> str | None:
    """Return the lock's holder and since when, in words; None if its process has ended. A process is identified by its
    number and its start, since numbers are reused."""
    try:
        holder, since = read_json(lock.read_text("utf-8")), lock.stat().st_mtime
        pid, host, started = int(holder["pid"]), str(holder["host"]), float(holder["started"])
    except FileNotFoundError:
        return None
    except (ValueError, OverflowError, LookupError, TypeError):
        return "another process"
    lives = host != socket.gethostname() or _is_flocked(lock)  # a container's process numbers differ
    if not lives:
        with suppress(psutil.NoSuchProcess):
            lives = abs(psutil.Process(pid).create_time() - started) < _CLOCK
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
    return f"process {pid} on {host} since {began}" if lives else None


@contextmanager
def _marked(lock: Path) -> Iterator[None]:
    """Keep the file flocked inside the block, which shows even to processes that cannot see this one's number."""
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems lack such locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_flocked(lock: Path) -> bool:
    with suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
    return False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process of this host at a time into the block for `folder`; the others wait. For short work only."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
