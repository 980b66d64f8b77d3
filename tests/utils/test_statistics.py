from __future__ import annotations

import numpy as np
import pytest

from scedit_cli.utils.statistics import estimate


def test_the_interval_of_a_mean_is_that_of_a_normal_distribution():
    values = np.random.default_rng(1).normal(3, 2, (400, 1))
    found = estimate(values, lambda means: means[:, 0])
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.03)
    assert found == estimate(values, lambda means: means[:, 0])


def test_columns_of_an_image_stay_together():
    one = np.random.default_rng(1).normal(size=(50, 1))
    pairs = np.concatenate([one + 0.5, one], 1)
    found = estimate(pairs, lambda means: means[:, 0] - means[:, 1])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_what_cannot_be_computed_has_no_interval():
    assert estimate(np.ones((5, 1)), lambda means: np.full(len(means), np.nan)).value is None
    assert estimate(np.ones((1, 1)), lambda means: means[:, 0]).low is None
