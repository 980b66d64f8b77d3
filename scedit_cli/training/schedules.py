"""How fast to learn at which step, and at which noise levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def learning_rate_factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with at `step` of `steps`, counted from 0; never 0.

    It rises in `warmup` equal parts to 1, then stays ("constant"), or falls along half a cosine or a straight line.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


def draw_timesteps(how: str, count: int, total: int, shift: float, generator: torch.Generator) -> Tensor:
    """`count` timesteps in [0, total), where higher is noisier; int64, (count,).

    Args:
        how: "uniform"; "logit-normal", most in the middle (Esser et al. 2024, arXiv 2403.03206, section 3.1); or
            "shifted", t' = s·t / (1 + (s - 1)·t) of a uniform t in [0, 1) (the same paper's equation 23), which a
            `shift` s above 1 makes noisier.
    """
    if how == "logit-normal":
        t = torch.sigmoid(torch.randn(count, generator=generator, dtype=torch.float64))
    else:
        t = torch.rand(count, generator=generator, dtype=torch.float64)
    if how == "shifted":
        t = shift * t / (1 + (shift - 1) * t)
    return (t * total).long().clamp(max=total - 1)
