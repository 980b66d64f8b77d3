"""Tensor operations by NumPy, which use the calling thread alone.

PyTorch starts a team of threads for every thread that calls its parallel loops. The teams of the threads that load the
next batches slow down the thread that computes: on two cores, a training step took a quarter longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return `torch.stack(tensors)`, for tensors of one shape and type on the CPU."""
    first = tensors[0]
    whole = np.stack([each.reshape(-1).view(torch.uint8).numpy() for each in tensors])  # NumPy has no bfloat16
    return torch.from_numpy(whole).view(first.dtype).reshape(len(tensors), *first.shape)


def planes(pixels: np.ndarray) -> Tensor:
    """Return an image's pixels, uint8 (H, W, C), as a tensor (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 2, 0)))


def unit(values: Tensor) -> Tensor:
    """Return uint8 values as float32 in [0, 1]."""
    return torch.from_numpy(np.divide(values.numpy(), np.float32(255), dtype=np.float32))
