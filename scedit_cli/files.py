"""Files and folders that appear whole or not at all: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from scedit_cli.errors import SceditError, WorkFailed

_AT_ONCE = 256  # files of a folder that wait to be flushed: a folder may hold many thousands
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Writes `data` (text as UTF-8) to `path`, replacing what is there in one step; returns the path.

    Raises:
        WorkFailed: the disk is full or broken.
        SceditError: the place cannot be written to.
    """
    path = Path(path)
    with whole(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_new(path: str | os.PathLike[str], data: bytes) -> bool:
    """Writes `data` to `path` unless something is there; False where it is, even if it appeared this very moment.

    Raises:
        WorkFailed, SceditError: as `write_whole`.
    """
    path = Path(path)
    if os.path.lexists(path):
        return False
    part = _beside(path)
    try:
        part.write_bytes(data)
        _flush(part)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            os.replace(part, path)
        _flush(path.parent)
    except OSError as error:
        raise _explained(error, path, part) from error
    finally:
        part.unlink(missing_ok=True)
    return True


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with the same suffix; what the body writes there becomes `path`.

    If the body raises, `path` is left as it was and nothing stays behind.
    """
    path = Path(path)
    part = _beside(path)
    try:
        yield part
        _flush(part)
        os.replace(part, path)
        _flush(path.parent)
    except OSError as error:
        raise _explained(error, path, part) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`, which becomes `path` when the body is done.

    Raises:
        SceditError: `path` exists and holds something.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise SceditError(f"{path} exists already", hint="name another place, or remove it first")
    part = _beside(path)
    try:
        part.mkdir()
        yield part
        every = chain(part.rglob("*"), (part,))
        with ThreadPoolExecutor(16) as pool:  # flushes wait for the disk, not for each other
            while some := list(islice(every, _AT_ONCE)):
                list(pool.map(_flush, some))
        os.replace(part, path)
        _flush(path.parent)
    except OSError as error:
        raise _explained(error, path, part) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def as_json(document: Any) -> str:
    """`document` as text. JSON has no NaN and no infinity: they become null. Paths become strings."""
    return json.dumps(_finite(document), indent=2, allow_nan=False, default=str) + "\n"


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text that may be anybody's.

    Raises:
        ValueError: it is no JSON, or none that can be read: nested too deeply, or with a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, path, path.parent) from error
    return path.with_name(f".{os.getpid()}~{path.name}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path, part: Path) -> Exception:
    """The sentence for an error in writing `path`; an error about any other file passes through unchanged."""
    if error.errno in _FULL:
        return WorkFailed(f"{path} could not be written: {error.strerror}", hint="make room on the disk and try again")
    about = {str(name) for name in (error.filename, error.filename2) if name is not None}
    if any(name == str(part) or name.startswith(f"{part}{os.sep}") for name in about):
        return SceditError(f"{path} could not be written: {error.strerror}", hint="name a place you can write to")
    return error
