"""How fast the device multiplies matrices, measured: what a training step's speed is a share of."""

from __future__ import annotations

import time

import torch

_SIDES = {"cpu": 1024, "cuda": 8192}
_SECONDS = 0.5


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of large square products in `dtype`; the best of many."""
    side = _SIDES.get(device.type, 2048)
    one, two = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        started = time.perf_counter()
        one @ two
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
