"""The learning rate by step, and the distribution of timesteps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_NAMES = {"constant": "constant_with_warmup", "cosine-restarts": "cosine_with_restarts"}  # where diffusers differs


def learning_rate_factor(
    schedule: str, steps: int, warmup: int, cycles: int = 1, power: float = 1.0, learning_rate: float = 1.0
) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the step, counted from 0: diffusers' schedules, shifted
    by one step so that the first step has a learning rate above 0.

    Args:
        schedule: "constant", "linear", "cosine", "cosine-restarts" or "polynomial".
        warmup: the number of steps in which the factor first rises linearly to 1.
        cycles: the number of cycles of cosine-restarts.
        power: the exponent of polynomial. Its learning rate ends at an absolute 1e-7, so that it needs `learning_rate`.
    """
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    made = get_scheduler(
        _NAMES.get(schedule, schedule),
        optimizer,
        num_warmup_steps=warmup + 1,
        num_training_steps=steps + 1,
        num_cycles=cycles,
        power=power,
    )
    return lambda step: made.lr_lambdas[0](step + 1)


def draw_timesteps(
    how: str,
    count: int,
    total: int,
    generator: torch.Generator,
    *,
    shift: float = 3.0,
    mean: float = 0.0,
    deviation: float = 1.0,
    between: Sequence[float] = (0.0, 1.0),
) -> Tensor:
    """Return `count` timesteps in [0, total), where higher is noisier; int64, (count,).

    Args:
        how: "uniform"; "logit-normal", the sigmoid of a normal variable with this `mean` and `deviation`, most often
            near the middle (Esser et al. 2024, arXiv 2403.03206, section 3.1); or "shifted", t' = s·t / (1 + (s - 1)·t)
            of a uniform t in [0, 1) (equation 23 of the same paper), noisier for a `shift` s above 1.
        between: the range of timesteps to draw from, as shares of `total`.
    """
    if how == "logit-normal":
        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        t = torch.sigmoid(mean + deviation * normal)
    else:
        t = torch.rand(count, generator=generator, dtype=torch.float64)
    if how == "shifted":
        t = shift * t / (1 + (shift - 1) * t)
    low, high = between
    t = low + (high - low) * t
    return (t * total).long().clamp(max=max(int(low * total), round(high * total) - 1))
