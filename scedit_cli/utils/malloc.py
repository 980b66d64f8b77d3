"""glibc's allocation of the CPU's memory, from which PyTorch takes its tensors."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

# glibc's own names: mallopt's parameters and the environment variables of a process that starts. The first is the size
# from which an allocation is a mapping of its own, unmapped when it is freed; 32 MiB is the most that glibc takes. The
# second is how much free memory the end of the heap may hold.
_KEPT = {"MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20), "MALLOC_TRIM_THRESHOLD_": (-1, 128 * 2**20)}


def keep_freed_memory() -> None:
    """Let this process and those it starts keep up to 128 MiB of freed memory, unless the user has set how much.

    glibc gives tensors of a few MiB back to the system when they are freed, which fills the pages of the next ones with
    zeros again: a twentieth of a training step on the embedded base.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in (*_KEPT, "GLIBC_TUNABLES")):
        return
    with suppress(AttributeError, OSError):  # another C library
        allocator = ctypes.CDLL(None).mallopt
        for name, (parameter, size) in _KEPT.items():
            allocator(parameter, size)
            os.environ[name] = str(size)


def give_back_freed_memory() -> None:
    """Give the system the free memory that glibc would give to the next tensors."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)
