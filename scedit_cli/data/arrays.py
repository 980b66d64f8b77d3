"""Tensors that the calling thread makes alone, by NumPy.

PyTorch gives every thread that calls its parallel loops a team of threads of its own. Teams of the threads that load
the next batches slow down the one that computes: on two cores, a training step took a quarter longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """What `torch.stack` gives of tensors of one shape and type on the CPU."""
    first = tensors[0]
    whole = np.stack([each.reshape(-1).view(torch.uint8).numpy() for each in tensors])  # of bfloat16 too
    return torch.from_numpy(whole).view(first.dtype).reshape(len(tensors), *first.shape)


def planes(pixels: np.ndarray) -> Tensor:
    """uint8 (C, H, W) of a picture's pixels (H, W, C)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 2, 0)))


def unit(values: Tensor) -> Tensor:
    """float32 in [0, 1] of uint8 values."""
    return torch.from_numpy(np.divide(values.numpy(), np.float32(255), dtype=np.float32))
