from __future__ import annotations

import pytest
import torch

from scedit_cli.training.schedules import draw_timesteps, learning_rate_factor


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate_factor("cosine", step, 12, 3) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True) and 0 < rates[-1] < 0.05
    linear = [learning_rate_factor("linear", step, 4, 0) for step in range(4)]
    assert linear == [1.0, 0.75, 0.5, 0.25]
    assert {learning_rate_factor("constant", step, 4, 0) for step in range(4)} == {1.0}


@pytest.mark.parametrize(
    "how, shift, share_above_half",
    [("uniform", 9.0, 0.5), ("logit-normal", 9.0, 0.5), ("shifted", 3.0, 0.75), ("shifted", 1.0, 0.5)],
)
def test_timesteps_lie_where_they_should(how, shift, share_above_half):
    drawn = draw_timesteps(how, 20000, 1000, shift, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64 and 0 <= drawn.min() and drawn.max() < 1000
    assert (drawn >= 500).float().mean().item() == pytest.approx(share_above_half, abs=0.015)
    # A normal deviate lies within ±ln 3 with probability 0.728: the middle half of a logit-normal.
    middle = ((drawn >= 250) & (drawn < 750)).float().mean().item()
    assert middle == pytest.approx({"logit-normal": 0.728, "uniform": 0.5}.get(how, middle), abs=0.015)


def test_the_same_generator_draws_the_same():
    draw = [draw_timesteps("uniform", 8, 1000, 1.0, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draw)
