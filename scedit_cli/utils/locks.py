"""Locks: files that name the process that alone works at a place."""

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

_CLOCK = 5.0  # seconds by which a clock that is set anew may move a process's start


@contextmanager
def held(lock: Path, place: Path, hint: str) -> Iterator[None]:
    """`place` for this process alone, as the file `lock` tells the others, whose folder is made. Afterwards the lock is
    gone, and so are the folders made for it if nothing came to be in them.

    The lock of a process that lives no more is taken over, if it lived on this host.

    Raises:
        SceditError: another process holds it, or it cannot be written; `hint` says what to do then.
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
        if is_mine(lock):  # somebody may have removed it by hand, and another process have taken the place
            with suppress(OSError):
                lock.unlink()
            _remove(made)


def check_free(lock: Path, place: Path, hint: str) -> None:
    """Raises SceditError where a process that lives holds the lock of `place`; `hint` says what else can be done."""
    if holder := _holder(lock):
        raise SceditError(
            f"{place} is in use by {holder}", hint=f"wait for it, or {hint}; if it is surely gone, remove {lock}"
        )


def is_mine(lock: Path) -> bool:
    """Whether this process holds the lock, still."""
    lock = lock.absolute()
    try:
        return lock.read_text("utf-8") == _text_of(os.getpid())
    except OSError:
        return False


def _remove(folders: list[Path]) -> None:
    with suppress(OSError):  # the first that holds something ends it
        for folder in folders:
            folder.rmdir()


def _take(lock: Path, place: Path, hint: str) -> None:
    with alone(lock.parent):  # of several that find a stale lock, one takes it over
        while not write_new(lock, _text_of(os.getpid()).encode()):
            check_free(lock, place, hint)
            lock.unlink(missing_ok=True)


@cache
def _text_of(pid: int) -> str:
    """What the locks of a process say: made once, since its start is counted from a clock that may be set."""
    return json.dumps({"pid": pid, "host": socket.gethostname(), "started": psutil.Process(pid).create_time()})


def _holder(lock: Path) -> str | None:
    """Who holds the lock and since when, in words; None if its process is gone. A process is its number together with
    when it started, since numbers are given again."""
    try:
        holder, since = read_json(lock.read_text("utf-8")), lock.stat().st_mtime
        pid, host, started = int(holder["pid"]), str(holder["host"]), float(holder["started"])
    except FileNotFoundError:
        return None
    except (ValueError, OverflowError, LookupError, TypeError):
        return "another process"
    lives = host != socket.gethostname() or _is_flocked(lock)  # in a container, numbers are others
    if not lives:
        with suppress(psutil.NoSuchProcess):
            lives = abs(psutil.Process(pid).create_time() - started) < _CLOCK
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
    return f"process {pid} on {host} since {began}" if lives else None


@contextmanager
def _marked(lock: Path) -> Iterator[None]:
    """Within, `_is_flocked`, also for processes that do not see the number of this one."""
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without such locks
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
    """Within, no other process of this host is, for the same folder: it waits. For what takes a moment."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
