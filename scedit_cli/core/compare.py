"""Comparison of the edits of two lists of tuners, on random features and hints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, Tuner

_SIDE = 4  # of the features, in pixels

Weighted = tuple[Tuner, float]


class Difference(NamedTuple):
    """The difference between two edits.

    Attributes:
        largest: the largest absolute difference; NaN where an edit is NaN.
        edit: the largest absolute edit of the first list.
        relative: the norm of the difference over all skips, as a share of that of the first list's edits.
    """

    largest: float
    edit: float
    relative: float


@torch.no_grad()
def difference_of(ones: Sequence[Weighted], others: Sequence[Weighted]) -> Difference:
    """Compare the summed edits of two lists of tuners with their scales, over standard normal features of every skip
    and one random hint per condition."""
    draw = torch.Generator().manual_seed(0)
    channels = ones[0][0].channels
    skips = [torch.randn(2, width, _SIDE, _SIDE, generator=draw) for width in channels]
    hints = {
        tuner.condition: torch.rand(2, tuner.in_channels, _SIDE * HINT_SCALE, _SIDE * HINT_SCALE, generator=draw)
        for tuner, _ in ones
        if isinstance(tuner, CSCTuner)
    }
    edit = torch.cat([each.flatten().double() for each in _edits(ones, skips, hints)])
    other = torch.cat([each.flatten().double() for each in _edits(others, skips, hints)])
    largest, apart = float((edit - other).abs().max()), float((edit - other).norm())
    size = float(edit.norm())
    return Difference(largest, float(edit.abs().max()), apart / size if size else apart and math.inf)


def _edits(tuners: Sequence[Weighted], skips: Sequence[Tensor], hints: dict[str, Tensor]) -> list[Tensor]:
    """Return the sum of all edits, for each skip."""
    sums = [torch.zeros_like(skip) for skip in skips]
    for tuner, scale in tuners:
        features = None
        if isinstance(tuner, CSCTuner):
            # All skips are of one size here, so the chain runs without its strides.
            features = tuner.encoder(hints[tuner.condition].to(tuner.dtype), [1] * len(skips))
        for i, skip in enumerate(skips):
            edit = tuner(skip, i) if features is None else tuner(skip, i, features[i])
            sums[i] = sums[i] + scale * edit
    return sums
