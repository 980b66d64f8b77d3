"""Whether two lists of tuners edit alike, measured on random features and hints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, Tuner

_SIDE = 4  # of the features, in pixels

Weighted = tuple[Tuner, float]


@torch.no_grad()
def largest_difference(ones: Sequence[Weighted], others: Sequence[Weighted]) -> tuple[float, float]:
    """Compares the summed edits of two lists of tuners with their scales, over standard normal features of every skip
    and one random hint per condition.

    Returns:
        The largest absolute difference, and the largest absolute edit of `ones`. NaN where an edit is none.
    """
    draw = torch.Generator().manual_seed(0)
    channels = ones[0][0].channels
    skips = [torch.randn(2, width, _SIDE, _SIDE, generator=draw) for width in channels]
    hints = {
        tuner.condition: torch.rand(2, tuner.in_channels, _SIDE * HINT_SCALE, _SIDE * HINT_SCALE, generator=draw)
        for tuner, _ in ones
        if isinstance(tuner, CSCTuner)
    }
    pairs = list(zip(_edits(ones, skips, hints), _edits(others, skips, hints), strict=True))
    difference = torch.stack([(one - other).abs().max() for one, other in pairs]).max()
    return float(difference), float(torch.stack([one.abs().max() for one, _ in pairs]).max())


def _edits(tuners: Sequence[Weighted], skips: Sequence[Tensor], hints: dict[str, Tensor]) -> list[Tensor]:
    """The sum of all edits of each skip."""
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
