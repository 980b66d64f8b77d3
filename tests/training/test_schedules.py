from __future__ import annotations

import pytest
import torch

from scedit_cli.training.schedules import draw_timesteps, learning_rate_factor


def rates_of(schedule: str, steps: int, warmup: int, **options) -> list[float]:
    factor = learning_rate_factor(schedule, steps, warmup, **options)
    return [factor(step) for step in range(steps)]


def test_the_learning_rate_rises_and_falls():
    rates = rates_of("cosine", 12, 3)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True) and 0 < rates[-1] < 0.05
    assert rates_of("linear", 4, 0) == [1.0, 0.75, 0.5, 0.25]
    assert rates_of("constant", 4, 0) == [1.0] * 4
    assert rates_of("constant", 4, 3) == [0.25, 0.5, 0.75, 1.0]


def test_restarts_and_powers():
    restarts = rates_of("cosine-restarts", 8, 0, cycles=2)
    assert restarts[:4] == restarts[4:] == sorted(restarts[:4], reverse=True) and restarts[0] == 1.0
    assert rates_of("polynomial", 4, 0, power=2.0) == pytest.approx([1.0, 0.5625, 0.25, 0.0625], abs=1e-5)


@pytest.mark.parametrize(
    "how, shift, share_above_half",
    [("uniform", 9.0, 0.5), ("logit-normal", 9.0, 0.5), ("shifted", 3.0, 0.75), ("shifted", 1.0, 0.5)],
)
def test_timesteps_lie_where_they_should(how, shift, share_above_half):
    drawn = draw_timesteps(how, 20000, 1000, torch.Generator().manual_seed(0), shift=shift)
    assert drawn.dtype == torch.int64 and 0 <= drawn.min() and drawn.max() < 1000
    assert (drawn >= 500).float().mean().item() == pytest.approx(share_above_half, abs=0.015)
    # A normal deviate lies within ±ln 3 with probability 0.728: the middle half of a logit-normal.
    middle = ((drawn >= 250) & (drawn < 750)).float().mean().item()
    assert middle == pytest.approx({"logit-normal": 0.728, "uniform": 0.5}.get(how, middle), abs=0.015)


def test_the_same_generator_draws_the_same():
    draw = [draw_timesteps("uniform", 8, 1000, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draw)


@pytest.mark.parametrize("how", ["uniform", "logit-normal", "shifted"])
def test_a_range_bounds_them(how):
    drawn = draw_timesteps(how, 20000, 1000, torch.Generator().manual_seed(0), between=(0.25, 0.75))
    assert (drawn.min().item(), drawn.max().item()) == (pytest.approx(250, abs=10), pytest.approx(749, abs=10))
    assert drawn.min() >= 250 and drawn.max() < 750


def test_the_logit_normal_has_a_mean_and_a_deviation():
    generator = torch.Generator().manual_seed(0)
    drawn = draw_timesteps("logit-normal", 20000, 1000, generator, mean=1.0, deviation=0.5)
    logits = torch.logit((drawn + 0.5) / 1000)
    assert logits.mean().item() == pytest.approx(1.0, abs=0.02) and logits.std().item() == pytest.approx(0.5, abs=0.02)
