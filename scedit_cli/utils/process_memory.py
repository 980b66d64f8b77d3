"""The memory that a process takes: an accelerator's allocations, or on a CPU what is resident."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


class Memory:
    """Measures from its making on, which wants to be before any model is there. On an accelerator this is what PyTorch
    has allocated there; on a CPU it is the resident memory of the whole process, libraries included.

    Attributes:
        libraries: bytes resident at its making; 0 on an accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._accelerator = None if device.type == "cpu" else device
        self.libraries = 0 if self._accelerator else resident()

    def forget(self) -> None:
        """The peak counts from here on."""
        if self._accelerator:
            torch.accelerator.empty_cache()
            torch.accelerator.reset_peak_memory_stats(self._accelerator)
        else:
            _forget_peak()

    def peak(self) -> int:
        """The most bytes at any time since."""
        if self._accelerator:
            return torch.accelerator.max_memory_allocated(self._accelerator)
        return _status("VmHWM") or _most_resident()

    def reserved(self) -> int | None:
        """The most bytes that PyTorch held of an accelerator, allocated or not; None on a CPU."""
        return torch.accelerator.max_memory_reserved(self._accelerator) if self._accelerator else None


def resident() -> int:
    """Bytes of this process that are resident now; where that is not told, the most that ever were."""
    return _status("VmRSS") or _most_resident()


def _forget_peak() -> None:
    """Linux only; elsewhere, or where it is forbidden, loading the base counts towards the peak."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        pass


def _status(field: str) -> int | None:
    """A field of Linux's process status in bytes. Unlike `ru_maxrss`, it forgets what was there before exec."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _most_resident() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
