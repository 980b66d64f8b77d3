"""Fitting of tuners to the sizes and places that other implementations can express.

They derive a map's hidden width from the skip's channels, by one ratio or one rank for all skips. A tuner of other
widths is padded to the next widths that they can express with units of zero weights, which leave its edits unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from scedit_cli.core.skips import in_words
from scedit_cli.core.tuners import Tuner
from scedit_cli.utils.errors import SceditError

_DECIMALS = 12

AnyTuner = TypeVar("AnyTuner", bound=Tuner)


def ratio_for(widths: Sequence[int], wanted: Sequence[int]) -> tuple[float, list[int]]:
    """Return the shortest decimal r that makes every `int(width · r)` at least the `wanted` one, and equal to it where
    a ratio can, and the widths that r makes."""
    least = max(w / width for w, width in zip(wanted, widths, strict=True))
    ratios = [math.ceil(least * 10**digits) / 10**digits for digits in range(_DECIMALS)]
    made = {ratio: [int(width * ratio) for width in widths] for ratio in ratios}
    enough = [ratio for ratio in ratios if all(m >= w for m, w in zip(made[ratio], wanted, strict=True))]
    best = min(enough, key=lambda ratio: sum(made[ratio]))  # the first of the least widths has the fewest digits
    return best, made[best]


@torch.no_grad()
def widened(tuner: AnyTuner, **sizes: Sequence[int]) -> AnyTuner:
    """Return a tuner with these larger `sizes` that gives the same edits as `tuner`: the added weights are zero."""
    named = {"condition": tuner.condition} if tuner.condition else {}
    wide = type(tuner)(**(tuner.sizes | {name: list(size) for name, size in sizes.items()}), **named)
    wide.to(tuner.device, tuner.dtype)
    filled = wide.state_dict()
    for name, tensor in tuner.state_dict().items():
        filled[name].zero_()[tuple(slice(size) for size in tensor.shape)] = tensor
    wide.up_blocks = tuner.up_blocks
    return wide


def by_up_block(tuner: Tuner) -> list[tuple[int, int]]:
    """Return the (up block, resnet) that takes each skip, in decoder order: by the tuner's own `up_blocks`, else by the
    only regular U-Net, with equally many resnets on every level, whose skips have these channels.

    Raises:
        SceditError: no or several regular U-Nets have these skips, or `up_blocks` has another number of skips.
    """
    possible = {tuner.up_blocks} if tuner.up_blocks else _regular(tuner.channels)
    if len(possible) != 1:
        raise SceditError(
            f"it is not known how the base's up blocks share the skips of {in_words(tuner.channels)} channels",
            hint="say how many each of them takes, from the deepest, as in `up_blocks=3,3,3,3`",
        )
    counts = possible.pop()
    if sum(counts) != len(tuner.channels) or min(counts) < 1:
        raise SceditError(
            f"up blocks that take {', '.join(map(str, counts))} skips do not share {len(tuner.channels)} of them",
            hint="say how many each of them takes, from the deepest",
        )
    return [(block, k) for block, count in enumerate(counts) for k in range(count)]


def _regular(channels: Sequence[int]) -> set[tuple[int, ...]]:
    """Return the possible `up_blocks` if all levels of the encoder have equally many resnets. Its skips are then
    conv_in's, and on each level the resnets' and (but for the last level) the downsampler's, in one width."""
    possible = set()
    for levels in range(1, len(channels) // 2 + 1):
        each = len(channels) // levels  # the skips of a level: resnets and one more
        widths = [channels[1 + each * level] if each > 1 else 0 for level in range(levels)]
        skips = [widths[0]]
        for level, width in enumerate(widths):
            skips += [width] * (each - 1 + (level < levels - 1))
        if tuple(skips) == tuple(channels):
            possible.add((each,) * levels)
    return possible
