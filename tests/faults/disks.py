"""Small disks of our own, and permissions that count even for root. To be called in forked processes."""

from __future__ import annotations

import ctypes
import os
import tempfile
from functools import cache
from pathlib import Path

from tests.faults.forked import run

_NEW_NAMESPACE = 0x00020000
_SIZE = 64  # MiB
_libc = ctypes.CDLL(None, use_errno=True)


def mounted(folder: Path, options: str = f"size={_SIZE}m") -> None:
    """An empty disk in memory at `folder`, for this process and its children alone; "remount,ro" makes it read-only.

    Raises:
        OSError: that is not allowed here.
    """
    flags, data = 0, options.encode()
    if options == "remount,ro":
        flags, data = 32 | 1, b""
    else:
        _check(_libc.unshare(_NEW_NAMESPACE))
        _check(_libc.mount(b"none", b"/", None, (1 << 18) | (1 << 14), None))  # private, and all below
    _check(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, data))


@cache
def why_not() -> str | None:
    """Why disks cannot be mounted here; None where they can."""
    with tempfile.TemporaryDirectory() as folder:

        def work() -> str | None:
            try:
                mounted(Path(folder))
            except OSError as error:
                return f"a disk cannot be mounted: {error.strerror}"

        return run(work).value


def forbid() -> None:
    """From now on permissions count for this process, even if it is root's."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, sets))
    for place in range(2):  # effective and permitted: may override and may search
        sets[place] &= ~0b110
    _check(_libc.capset(header, sets))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
