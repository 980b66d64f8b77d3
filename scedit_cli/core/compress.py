"""Fewer hidden units for an SC-Tuner, by least squares on what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.core.skips import survey
from scedit_cli.core.tuners import SCTuner, SkipMLP
from scedit_cli.utils.errors import SceditError

ROWS_PER_UNIT = 4  # features for each hidden unit of a map, that the fit is well determined
_FEWEST_ROWS = 4096
_DEPENDENT = 1e-10  # of a unit's own variance: less than this is rounding


def rows_for(tuner: SCTuner) -> int:
    """How many feature vectors of each skip a compression of `tuner` wants."""
    return max(_FEWEST_ROWS, ROWS_PER_UNIT * max(tuner.hidden))


@torch.no_grad()
def compress(
    tuner: SCTuner,
    rank: int,
    features: Sequence[Tensor] | None = None,
    on_skip: Callable[[int, int], None] | None = None,
) -> tuple[SCTuner, list[float]]:
    """An SC-Tuner with at most `rank` hidden units a skip that gives nearly the same edits.

    Hidden units are taken one by one, each time the one that lessens the squared error of the edit most when all
    those taken are refitted (orthogonal least squares, Chen et al. 1989); the up-projection is the least-squares fit.

    Args:
        tuner: computed with on the CPU.
        rank: at least 1; maps that have no more units than this stay as they are.
        features: what the skips hold, in encoder order, each (N, channels). Left out, the tuner's weights alone
            decide: the error is that over a standard normal distribution.
        on_skip: called with (skips done, of how many).

    Returns:
        The tuner, and for each skip the error ‖T'(x) - T(x)‖ / ‖T(x)‖ over a quarter of the features, which the fit
        did not see.

    Raises:
        SceditError: a rank below 1, or features that are not those of the tuner's skips.
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
        if on_skip:
            on_skip(i + 1, len(tuner.maps))
    compressed = SCTuner(tuner.channels, [each.down.out_channels for each in maps]).to(tuner.dtype)
    for to, each in zip(compressed.maps, maps, strict=True):
        to.load_state_dict(each.state_dict())
    compressed.up_blocks = tuner.up_blocks
    compressed.metadata = dict(tuner.metadata)
    return compressed, errors


@contextmanager
def recorded(unet: nn.Module, rows: int) -> Iterator[list[Tensor]]:
    """Collects what the skips of `unet` hold while it runs inside the `with` block: `rows` pixels of each at most,
    drawn evenly from all calls, as (N, channels) float32 on the CPU in encoder order.

    The list is filled when the block ends.
    """
    skips = survey(unet)
    draw = torch.Generator().manual_seed(0)
    kept = [(torch.empty(0), torch.empty(0, width)) for width in skips.channels]
    handles, collected = [], []

    def before(first: int):
        def hook(block: nn.Module, args: tuple, kwargs: dict) -> None:
            for i, skip in enumerate(kwargs["res_hidden_states_tuple"], start=first):
                pixels = skip.detach().movedim(1, -1).flatten(0, -2).to("cpu", torch.float32)
                # A pixel stays while its random key is among the largest: an even draw over all that came by.
                keys = torch.cat([kept[i][0], torch.rand(len(pixels), generator=draw)])
                largest = keys.topk(min(rows, len(keys))).indices
                kept[i] = (keys[largest], torch.cat([kept[i][1], pixels])[largest])

        return hook

    last = len(skips.channels)
    for block in unet.up_blocks:
        last -= len(block.resnets)
        handles.append(block.register_forward_pre_hook(before(last), with_kwargs=True))
    try:
        yield collected
        collected += [pixels for _, pixels in kept]
    finally:
        for handle in handles:
            handle.remove()


def _compressed(whole: SkipMLP, rank: int, rows: Tensor) -> tuple[SkipMLP, float]:
    """A map with at most `rank` of `whole`'s hidden units, fitted on three quarters of the rows; its error on the
    rest."""
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    seen, unseen = rows[len(rows) // 4 :], rows[: len(rows) // 4]
    down, up = whole.down.weight[:, :, 0, 0], whole.up.weight[:, :, 0, 0]
    units = F.gelu(F.linear(seen, down, whole.down.bias)).double()
    middle = units.mean(0)
    units -= middle
    products = units.T @ units
    taken = _taken(products, products @ up.T.double(), rank)
    # Of all units' edits, those that the taken ones span.
    fitted = torch.linalg.lstsq(products[taken][:, taken], products[taken] @ up.T.double()).solution.T
    bias = whole.up.bias.double() + up.double() @ middle - fitted @ middle[taken]
    small = SkipMLP(down.shape[1], len(taken)).to(down.dtype)
    small.down.weight.copy_(whole.down.weight[taken])
    small.down.bias.copy_(whole.down.bias[taken])
    small.up.weight.copy_(fitted[:, :, None, None])
    small.up.bias.copy_(bias)
    pixels = unseen.T[None, :, :, None]
    edit = whole(pixels)
    return small, float((small(pixels) - edit).norm() / edit.norm().clamp_min(1e-30))


def _taken(products: Tensor, towards: Tensor, rank: int) -> Tensor:
    """Which units to take, in order.

    Args:
        products: (units, units), the units' inner products over the rows.
        towards: (units, channels), their inner products with the edit.
    """
    own = products.diagonal().clone()  # what of each unit the taken ones do not span
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
