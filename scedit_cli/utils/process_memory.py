"""The memory that a process takes: allocations on an accelerator, or resident memory on a CPU."""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path

import torch

from scedit_cli.utils.malloc import give_back_freed_memory

_PROCESS = Path("/proc/self")


class Memory:
    """A measurement of memory, to be created before any model is loaded. On an accelerator it counts PyTorch's
    allocations; on a CPU, the resident memory of the whole process, libraries included.

    Attributes:
        libraries: bytes at rest when it was created; 0 on an accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._accelerator = None if device.type == "cpu" else device
        self.libraries = 0 if self._accelerator else resident_at_rest()

    def forget(self) -> None:
        """Start counting the peak from here."""
        if self._accelerator:
            torch.accelerator.empty_cache()
            torch.accelerator.reset_peak_memory_stats(self._accelerator)
        else:
            _forget_peak()

    def peak(self) -> int:
        """Return the peak in bytes since creation or the last `forget`."""
        if self._accelerator:
            return torch.accelerator.max_memory_allocated(self._accelerator)
        return _status("VmHWM") or _most_resident()

    def reserved(self) -> int | None:
        """Return the most bytes that PyTorch reserved on the accelerator, allocated or not; None on a CPU."""
        return torch.accelerator.max_memory_reserved(self._accelerator) if self._accelerator else None


def memory_used(device: torch.device) -> int:
    """Return bytes of memory: the peak of an accelerator, or the present use of this process on a CPU."""
    if device.type == "cpu":
        return resident()
    if device.type == "mps":  # MPS keeps no peak.
        return torch.mps.driver_allocated_memory()
    return torch.accelerator.max_memory_allocated(device)


def workspaces(device: torch.device) -> int:
    """Return the bytes that matrix products of a training step take beside their tensors: PyTorch gives cuBLAS a
    workspace in each thread that uses it, the one that runs the model and the one that runs the backward pass. They
    are of 32 MiB on Hopper and later, else 8 MiB and 128 KiB, unless $CUBLAS_WORKSPACE_CONFIG says otherwise."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return 0
    recent = torch.cuda.get_device_capability(device)[0] >= 9
    parts = re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    kibibytes = sum(int(size) * int(count) for size, count in parts) or (32 * 2**10 if recent else 8320)
    return 2 * kibibytes * 2**10


def resident() -> int:
    """Return the bytes of this process that are resident now, or the peak where the system does not report them."""
    return _status("VmRSS") or _most_resident()


def resident_at_rest() -> int:
    """Return the bytes of this process that are resident without garbage and, with glibc, without the free memory that
    it would give to the next tensors."""
    gc.collect()
    give_back_freed_memory()
    return resident()


def _forget_peak() -> None:
    """Reset the peak. Works on Linux only; elsewhere, or where it is forbidden, loading counts towards the peak."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        pass


def _status(field: str) -> int | None:
    """Return a field of Linux's process status in bytes. Unlike `ru_maxrss`, it does not count memory before exec."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _most_resident() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
