"""Compression of an SC-Tuner to fewer hidden units, by least squares on its edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.core.skips import edit_skips, survey
from scedit_cli.core.tuners import SCTuner, SkipMLP, undrawn
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter

ROWS_PER_UNIT = 4  # features per hidden unit of a map, so that the fit is well determined
_FEWEST_ROWS = 4096
_DEPENDENT = 1e-10  # share of a unit's own variance; a smaller remainder is rounding


def rows_for(tuner: SCTuner) -> int:
    """Return the number of feature vectors per skip that a compression of `tuner` needs."""
    return max(_FEWEST_ROWS, ROWS_PER_UNIT * max(tuner.hidden))


@torch.no_grad()
def compress(
    tuner: SCTuner,
    rank: int,
    features: Sequence[Tensor] | None = None,
    reporter: Reporter = SILENT,
) -> tuple[SCTuner, list[float]]:
    """Return an SC-Tuner with at most `rank` hidden units per skip that gives nearly the same edits.

    Hidden units are chosen one by one: always the one that reduces the edit's squared error most when all chosen ones
    are refitted (orthogonal least squares, Chen et al. 1989); the up-projection is the least-squares fit.

    Args:
        tuner: an SC-Tuner on the CPU.
        rank: at least 1; maps that have no more units than this stay as they are.
        features: the skips' features in encoder order, each (N, channels). By default they are drawn from a standard
            normal distribution.
        reporter: gets (skips done, of how many).

    Returns:
        The tuner, and for each skip the error ‖T'(x) - T(x)‖ / ‖T(x)‖ over the quarter of the features that the fit
        did not use.

    Raises:
        SceditError: the rank is below 1, or the features are not those of the tuner's skips.
    """
    if rank < 1:
        raise SceditError(f"the rank is {rank}", hint="at least one hidden unit has to stay")
    if features is not None and [each.shape[-1] for each in features] != list(tuner.channels):
        raise SceditError("these features are not those of the tuner's skips", hint="give one (N, channels) each")
    draw = torch.Generator().manual_seed(0)
    maps, errors = [], []
    for i, each in enumerate(tuner.maps):
        if each.down.out_channels <= rank:
            maps.append(each)
            errors.append(0.0)
        else:
            rows = torch.randn(rows_for(tuner), tuner.channels[i], generator=draw) if features is None else features[i]
            small, error = _compressed(each, rank, rows.to("cpu", each.down.weight.dtype))
            maps.append(small)
            errors.append(error)
        reporter.progress(i + 1, len(tuner.maps))
    compressed = undrawn(SCTuner, tuner.channels, [each.down.out_channels for each in maps], dtype=tuner.dtype)
    for to, each in zip(compressed.maps, maps, strict=True):
        to.load_state_dict(each.state_dict())
    compressed.up_blocks = tuner.up_blocks
    compressed.metadata = dict(tuner.metadata)
    return compressed, errors


@contextmanager
def recorded(unet: nn.Module, rows: int) -> Iterator[list[Tensor]]:
    """Collect features of the skips of `unet` while it runs inside the block: at most `rows` pixels of each skip, drawn
    evenly from all calls, as (N, channels) float32 on the CPU in encoder order. The list is filled when the block ends.
    """
    skips = survey(unet)
    draw = torch.Generator().manual_seed(0)
    kept = [(torch.empty(0), torch.empty(0, width)) for width in skips.channels]
    collected: list[Tensor] = []

    def keep(skip: Tensor, i: int) -> Tensor:
        pixels = skip.detach().movedim(1, -1).flatten(0, -2).to("cpu", torch.float32)
        # A pixel stays while its random key is among the largest, which is an even draw over all pixels so far.
        keys = torch.cat([kept[i][0], torch.rand(len(pixels), generator=draw)])
        largest = keys.topk(min(rows, len(keys))).indices
        kept[i] = (keys[largest], torch.cat([kept[i][1], pixels])[largest])
        return skip

    handles = edit_skips(unet, skips, keep)
    try:
        yield collected
        collected += [pixels for _, pixels in kept]
    finally:
        for handle in handles:
            handle.remove()


def _compressed(whole: SkipMLP, rank: int, rows: Tensor) -> tuple[SkipMLP, float]:
    """Return a map with at most `rank` of `whole`'s hidden units, fitted on three quarters of the rows, and its error
    on the rest."""
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    seen, unseen = rows[len(rows) // 4 :], rows[: len(rows) // 4]
    down, up = whole.down.weight[:, :, 0, 0], whole.up.weight[:, :, 0, 0]
    units = F.gelu(F.linear(seen, down, whole.down.bias)).double()
    middle = units.mean(0)
    units -= middle
    products = units.T @ units
    taken = _taken(products, products @ up.T.double(), rank)
    # The part of all units' edits that the chosen units span.
    fitted = torch.linalg.lstsq(products[taken][:, taken], products[taken] @ up.T.double()).solution.T
    bias = whole.up.bias.double() + up.double() @ middle - fitted @ middle[taken]
    small = undrawn(SkipMLP, down.shape[1], len(taken), dtype=down.dtype)
    small.down.weight.copy_(whole.down.weight[taken])
    small.down.bias.copy_(whole.down.bias[taken])
    small.up.weight.copy_(fitted[:, :, None, None])
    small.up.bias.copy_(bias)
    pixels = unseen.T[None, :, :, None]
    edit = whole(pixels)
    return small, float((small(pixels) - edit).norm() / edit.norm().clamp_min(1e-30))


def _taken(products: Tensor, towards: Tensor, rank: int) -> Tensor:
    """Choose the units to keep, in order.

    Args:
        products: the units' inner products over the rows, (units, units).
        towards: their inner products with the edit, (units, channels).
    """
    own = products.diagonal().clone()  # the squared norm of each unit's part that the chosen units do not span
    floor = _DEPENDENT * own
    towards = towards.clone()
    factors = products.new_zeros(len(products), rank)
    taken: list[int] = []
    for k in range(rank):
        gain = towards.square().sum(1) / own
        gain[own <= floor] = -1.0
        gain[taken] = -1.0
        best = int(gain.argmax())
        if gain[best] < 0:
            break
        factors[:, k] = (products[:, best] - factors[:, :k] @ factors[best, :k]) / own[best].sqrt()
        towards -= torch.outer(factors[:, k], towards[best] / own[best].sqrt())
        own -= factors[:, k].square()
        taken.append(best)
    return torch.tensor(taken or [0])
