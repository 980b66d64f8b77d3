"""Failing file operations, below everything that the program and its libraries call for them.

An operation is counted where Python enters the system: by audit events (opening for writing, making, renaming, linking
and removing), and by files and `os` functions that count (writing, flushing to the disk). To be armed in a forked
process, which never puts it back.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

# Audit events, and where in their arguments the folder is that the path is relative to.
_CHANGES = {"os.mkdir": 2, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.rmdir": 1}
_NEEDS_ROOM = {"write", "fsync", "open", "os.mkdir", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def die(operation: str, path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Callable[[str, str], None]:
    """Raises the OSError of this number."""

    def raise_it(operation: str, path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return raise_it


@dataclass
class Shim:
    """Counts file operations below `folder`, and does something at one of them.

    Args:
        at: the number of the operation, from 1 on, at which `act` is called, before it happens (of a write, when the
            first half has happened); 0 for none.
        act: called with the operation and its path.
        onward: call it at all later ones that need room on the disk, too: a full disk stays full.
    """

    folder: Path
    at: int = 0
    act: Callable[[str, str], None] = die
    onward: bool = False
    count: int = 0
    seen: list[str] = field(default_factory=list)
    is_counting: bool = True
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def arm(self) -> Shim:
        sys.addaudithook(self._hear)
        fsync, system_open = os.fsync, io.open

        def counted_fsync(descriptor: int) -> None:
            self.operation("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def counted_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more, **others):
            writes = set(mode) & set("wax+") and isinstance(file, str | os.PathLike) and not (more or others)
            if not (writes and self._is_ours(os.fspath(file))):
                return system_open(file, mode, buffering, encoding, errors, newline, *more, **others)
            raw = _CountedFile(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
            if "b" in mode and buffering == 0:
                return raw
            binary = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            if "b" in mode:
                return binary
            return io.TextIOWrapper(binary, encoding, errors, newline, line_buffering=buffering == 1)

        os.fsync = counted_fsync
        io.open = builtins.open = tarfile.bltn_open = counted_open
        return self

    def strikes(self, number: int, operation: str) -> bool:
        """Whether the operation of this number is one to call `act` at."""
        if self.onward:
            return 0 < self.at <= number and operation in _NEEDS_ROOM
        return number == self.at

    def operation(self, operation: str, path: object) -> None:
        with self._lock:
            if self.is_counting and self._is_ours(path):
                self.count += 1
                self.seen.append(f"{operation} {os.fspath(path)}")
                if self.strikes(self.count, operation):
                    self.act(operation, os.fspath(path))

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(str(self.folder))

    def _hear(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self.operation("open", path)
        elif event in _CHANGES:
            path, folder = arguments[0], arguments[_CHANGES[event]]
            self.operation(event, path if folder == -1 else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path))


@dataclass
class Stop(Shim):
    """Stops the process, which can be told to go on, before its first operation on a path that ends as `pattern` says,
    such as "run/checkpoints/*"."""

    pattern: str = ""

    def operation(self, operation: str, path: object) -> None:
        super().operation(operation, path)
        if self.is_counting and self._is_ours(path) and fnmatch(os.fspath(path), f"*/{self.pattern}"):
            self.is_counting = False
            os.kill(os.getpid(), signal.SIGSTOP)


class _CountedFile(io.FileIO):
    """A file whose writes count."""

    def __init__(self, shim: Shim, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self._shim, self._path = shim, path

    def write(self, data) -> int:
        shim, whole = self._shim, memoryview(data).cast("B")
        half = len(whole) // 2 if shim.is_counting and shim.strikes(shim.count + 1, "write") else 0
        super().write(whole[:half])
        shim.operation("write", self._path)
        return half + super().write(whole[half:])


FULL, BROKEN_DISK, READ_ONLY = fail(errno.ENOSPC), fail(errno.EIO), fail(errno.EROFS)
