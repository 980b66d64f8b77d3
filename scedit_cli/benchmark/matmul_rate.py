"""The measured rate of matrix products of a device, to which the speed of a training step is compared."""

from __future__ import annotations

import time

import torch

from scedit_cli.benchmark.timing import synchronise

_SIDES = {"cpu": 1024, "cuda": 8192}
_SECONDS = 0.5


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return the floating-point operations per second of large square products in `dtype`, the best of many."""
    side = _SIDES.get(device.type, 2048)
    one, two = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        started = time.perf_counter()
        one @ two
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
