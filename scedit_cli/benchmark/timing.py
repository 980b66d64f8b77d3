"""The time of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes: on a CPU its processor time over all threads, which other programs on the
    machine disturb less than the clock; on an accelerator the time from idle to idle."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronise(device)
    began = clock()
    work()
    synchronise(device)
    return clock() - began


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
