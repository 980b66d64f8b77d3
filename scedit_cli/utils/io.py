"""Files and folders that appear whole or not at all: written beside, flushed to disk, then renamed.

Half-written files of a killed process are removed by the next process that writes in the same folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from scedit_cli.utils.errors import SceditError, WorkFailed

_AT_ONCE = 256  # files flushed at a time, since a folder may hold many thousands
_FULL = {errno.ENOSPC, errno.EDQUOT}
_BROKEN = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN}
_LONGEST_NAME = 255  # bytes, on all usual file systems
_PART = re.compile(r"\.(\d+)-([0-9a-f]{6})~.+")  # the name of what is in the making: process number, machine, and more
_MOST_DIGITS = sys.float_info.max_10_exp  # of a whole number that a float holds
_AN_HOUR, _A_WEEK = 3600.0, 7 * 86400.0
_own: set[str] = set()  # names of the files that this process is writing


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return `path` with its `~` or `~user` replaced by that user's home folder.

    Raises:
        SceditError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise SceditError(f"{path}: {user} is nobody's home folder here", hint="write the whole path") from None


def write_whole(path: str | os.PathLike[str], data: bytes | str, make_folder: bool = True) -> Path:
    """Write `data` (text as UTF-8) to `path`, replacing an existing file in one step; return the path.

    Args:
        make_folder: whether its folder is created if it is not there; if not, a folder that is gone is an error.

    Raises:
        WorkFailed: the disk is full or broken.
        SceditError: the path cannot be written to.
    """
    path = Path(path)
    with whole(path, make_folder=make_folder) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_new(path: str | os.PathLike[str], data: bytes, make_folder: bool = True) -> bool:
    """Write `data` to `path` unless it exists, even if it appeared this very moment; return whether it was written.
    `make_folder` is that of `write_whole`.

    Raises:
        WorkFailed, SceditError: as `write_whole`.
    """
    path = Path(path)
    if os.path.lexists(path):
        return False
    with _beside(path, make_folder) as part:
        part.write_bytes(data)
        return _renamed(part, path)


@contextmanager
def whole(path: str | os.PathLike[str], replace: bool = True, make_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix; the file that the body writes there becomes `path`.

    If the body raises, `path` is left as it was and nothing stays behind.

    Args:
        replace: whether an existing file is replaced; if not, it stays, even if it appeared this very moment.
        make_folder: as for `write_whole`.

    Raises:
        SceditError: `path` exists, and `replace` is false.
    """
    path = Path(path)
    with _beside(path, make_folder) as part:
        yield part
        if replace:
            _flush(part)
            os.replace(part, path)
            _flush(path.parent)
        elif not _renamed(part, path):
            raise SceditError(f"{path} exists already", hint="name another file, or add `overwrite`")


def _renamed(part: Path, path: Path) -> bool:
    """Flush `part` and rename it to `path` unless that exists; return whether it was renamed."""
    _flush(part)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # this file system may have no links
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(part)) from None
        # The name is now reserved by an empty file, until the rename: not every system has a rename that never replaces
        # another process's file.
        try:
            os.replace(part, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    _flush(path.parent)
    return True


@contextmanager
def whole_folder(path: str | os.PathLike[str], replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder, which becomes `path` when the body is done. A link is followed.

    Args:
        replace: whether an existing folder is removed once the new one is complete; a process killed at that moment
            leaves neither at `path`.

    Raises:
        SceditError: `path` is a file, or a folder that is not empty and not to be replaced.
    """
    path = Path(path)
    path = Path(os.path.realpath(path)) if path.is_symlink() else path  # older Pythons' `resolve` raises on loops
    if path.is_file() or (path.is_dir() and not replace and any(path.iterdir())):
        raise SceditError(f"{path} exists already", hint="name another place, or remove it first")
    with _beside(path) as part:
        new = part / "new"
        new.mkdir(parents=True)
        yield new
        every = chain(new.rglob("*"), (new,))
        with ThreadPoolExecutor(16) as pool:  # flushes wait for the disk, not for each other
            while some := list(islice(every, _AT_ONCE)):
                list(pool.map(_flush, some))
        if replace and path.exists():
            os.replace(path, part / "old")
        try:
            os.replace(new, path)
        except OSError:
            with suppress(OSError):
                os.replace(part / "old", path)
            raise
        _flush(path.parent)


def discard(path: Path) -> None:
    """Remove a folder in one step, so that it is either gone or complete.

    Raises:
        WorkFailed, SceditError: it cannot be removed.
    """
    with _beside(path) as part:
        os.replace(path, part)


def check_place(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written to `path`, before the work whose result it will hold; create its folder.

    Raises:
        WorkFailed, SceditError: as `write_whole`.
    """
    path = Path(path)
    if path.is_dir():
        raise SceditError(f"{path} is a folder", hint="name a file")
    with _beside(path) as part:
        part.write_bytes(b" ")  # a full disk still takes an empty file


def check_writable(path: str | os.PathLike[str], field: str) -> None:
    """Check that a file could be created at `path`, or in it where it is a folder. Neither `path` nor its folders need
    exist. The check leaves nothing behind, and removes what ended processes have left there.

    Raises:
        SceditError: it could not, for example because one of its folders is a file; the error names the `field`.
    """
    path = Path(path).absolute()
    folder = next(each for each in (path, *path.parents) if each.is_dir() or (each != path and os.path.lexists(each)))
    probe = folder / _mark()
    _own.add(probe.name)
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file")
        _sweep_once(folder)
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        if error.errno not in _FULL | _BROKEN:  # a full or broken disk may work again by the time of writing
            message = f"{field} {path} could not be written: {error.strerror}"
            raise SceditError(message, "name a place you can write to", field.strip("`")) from error
    finally:
        _own.discard(probe.name)


def sweep(folder: Path) -> None:
    """Remove the files and folders that ended processes were writing or removing in `folder`. Whether another machine's
    process has ended is unknown; its files are removed when they are a week old."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (found := _PART.fullmatch(entry.name)) and _is_left(int(found[1]), found[2], entry):
                _remove(Path(entry.path))


def as_json(document: Any) -> str:
    """Return `document` as JSON text. NaN and infinity, which JSON lacks, become null; paths become strings."""
    return json.dumps(_finite(document), indent=2, allow_nan=False, default=str) + "\n"


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text from an untrusted source.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds a whole number that no float does.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content; an unchanged file is read once."""
    state = file.stat()
    return _sha256(file.absolute(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _sha256(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _beside(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is created if `make_folder`, and remove it at the end. It
    has the suffix of `path` and a name of allowed length. An OSError about it becomes a SceditError."""
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in str(path)):  # surrogates stand for bytes that are no text
        raise SceditError(f"{ascii(str(path))} is no text in UTF-8", hint="name a place whose name is")
    mark, name = f"{_mark()}~", path.name
    if len(os.fsencode(mark + name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + path.suffix[:16]
    part = path.with_name(mark + name)
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, path, path.parent) from error
    _sweep_once(path.parent)
    _own.add(part.name)
    try:
        yield part
    except OSError as error:
        raise _explained(error, path, part) from error
    finally:
        _remove(part)
        _own.discard(part.name)


def _mark() -> str:
    """Return the beginning of a name that no other thread or process uses."""
    return f".{os.getpid()}-{_machine()}~{secrets.token_hex(4)}"


@lru_cache(maxsize=1024)
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def _is_left(process: int, machine: str, entry: os.DirEntry[str]) -> bool:
    """Return whether the process that was writing `entry` has ended. Numbers are reused, so its start counts too."""
    import psutil

    changed = entry.stat(follow_symlinks=False).st_mtime
    if machine != _machine():
        return time.time() > changed + _A_WEEK
    if process == os.getpid():
        return entry.name not in _own
    try:
        return psutil.Process(process).create_time() > changed + _AN_HOUR
    except psutil.NoSuchProcess:
        return True


@cache
def _machine() -> str:
    """Return a digest of the host, or the container on it, in which this process's number is valid."""
    try:
        numbers = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        numbers = 0
    return hashlib.sha256(f"{socket.gethostname()} {numbers}".encode()).hexdigest()[:6]


def _remove(part: Path) -> None:
    """Remove `part`, or leave it for the next `sweep`: an error here must not hide the result of the work."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError in writing `path` into a SceditError, for a file that grows and cannot appear whole."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path, path) from error


def _explained(error: OSError, path: Path, part: Path) -> Exception:
    """Return the SceditError for an OSError in writing `path`; an error about any other file is returned unchanged."""
    said = f"{path} could not be written: {error.strerror}"
    if error.errno in _FULL:
        return WorkFailed(said, hint="make room on the disk and try again")
    if error.errno in _BROKEN:
        return WorkFailed(said, hint="see to the disk, or to the connection to it, and try again")
    about = {str(name) for name in (error.filename, error.filename2) if name is not None}
    if any(name == str(part) or name.startswith(f"{part}{os.sep}") for name in about):
        if error.errno == errno.ENOENT:  # the folder existed a moment ago
            return WorkFailed(f"{path.parent} is gone", hint="see whether its disk is still there, and try again")
        return SceditError(said, hint="name a place you can write to")
    return error
