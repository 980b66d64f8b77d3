"""Bootstrap intervals of figures that are computed from means over images (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_RESAMPLES = 2000
_SHARE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % bootstrap interval; None where it, or nearly every resample, cannot be computed."""

    value: float | None
    low: float | None
    high: float | None


def estimate(values: np.ndarray, figure: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Return the figure of the mean of `values` with its percentile interval over resampled images.

    The resamples are drawn from a fixed seed. Rows of one image stay together, so that figures which compare two
    columns are compared image by image.

    Args:
        values: (N, K) K values of each of N images, finite.
        figure: maps means (R, K) to figures (R,), NaN where one cannot be computed.
    """
    import numpy as np

    count = len(values)
    value = figure(values.mean(0, keepdims=True))[0]
    if not np.isfinite(value):
        return Estimate(None, None, None)
    generator, resampled = np.random.default_rng(0), []
    for _ in range(0, _RESAMPLES, 250):  # in parts, as the counts of images take (R, N) numbers
        counts = generator.multinomial(count, np.full(count, 1 / count), size=250)
        resampled.append(figure(counts @ values / count))
    known = np.concatenate(resampled)
    known = known[np.isfinite(known)]
    if count < 2 or len(known) < _RESAMPLES / 2:
        return Estimate(float(value), None, None)
    low, high = np.quantile(known, ((1 - _SHARE) / 2, (1 + _SHARE) / 2))
    return Estimate(float(value), float(low), float(high))
