"""Merging of tuners into one: exactly, by concatenation, or approximately, by averaging their weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch

from scedit_cli.core.bundle import Bundle, check_together, checked_scales
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner, undrawn
from scedit_cli.utils.errors import SceditError

_SHARED = (
    "base", "base_revision", "base_fingerprint", "base_quantize", "base_vae", "base_vae_revision", "prediction_type",
    "zero_terminal_snr",
)  # fmt: skip


def merge(tuners: Sequence[tuple[Tuner | Bundle, float]]) -> Tuner | Bundle:
    """Merge tuners with their scales α into one that gives the same edits.

    SC-Tuners become one: their maps' hidden units are put side by side and α is folded into the up-projection, so that
    Σ α_i·T_i(x) = T(x). CSC-Tuners depend on their own hints and stay separate, in a bundle that keeps their α.
    Bundles are taken apart first. The merged SC-Tuner is on the first SC-Tuner's device.

    Returns:
        An SCTuner if there are only SC-Tuners, the CSCTuner itself if it is alone and its α is 1, otherwise a Bundle,
        its SC-Tuner (if any) first.

    Raises:
        SceditError: there is nothing to merge, the tuners have different skips, two take one condition, or a scale is
            no number.
    """
    flat = _flat(tuners)
    plain = [(tuner, scale) for tuner, scale in flat if not isinstance(tuner, CSCTuner)]
    hinted = [(tuner, scale) for tuner, scale in flat if isinstance(tuner, CSCTuner)]
    check_together([tuner for tuner, _ in flat])
    parts = ([(_concatenated(plain), 1.0)] if plain else []) + hinted
    if len(parts) == 1 and parts[0][1] == 1:
        merged: Tuner | Bundle = parts[0][0]
    else:
        merged = Bundle([tuner for tuner, _ in parts], [scale for _, scale in parts])
    if merged is not flat[0][0]:
        merged.metadata = _agreed([tuner for tuner, _ in flat])
    return merged


@torch.no_grad()
def average(tuners: Sequence[tuple[Tuner | Bundle, float]]) -> Tuner:
    """Return the weighted mean of tuners of one condition and shape, Σ w_i·θ_i / Σ w_i over every parameter θ.

    This is not exact: a map of mean weights is not the mean of the maps. Tuners that were trained from one start, or
    one from the other, lie close enough together for it; others are often worse averaged than alone.

    Raises:
        SceditError: there are fewer than two tuners, their shapes or conditions differ, or their weights add up to 0.
    """
    flat = _flat(tuners)
    first = flat[0][0]
    if len(flat) < 2:
        raise SceditError("there is one tuner only", hint="an average takes two or more")
    for tuner, _ in flat:
        if (tuner.kind, tuner.condition, tuner.sizes) != (first.kind, first.condition, first.sizes):
            raise SceditError(
                f"the {first} and the {tuner} are of different conditions or shapes",
                hint="an average needs tuners of one kind, condition and shape",
            )
    total = sum(weight for _, weight in flat)
    if total == 0:
        raise SceditError("the weights of the average add up to 0", hint="give each file a positive weight")
    mean = copy.deepcopy(first).to(_widest(tuner.dtype for tuner, _ in flat))
    for name, parameter in mean.named_parameters():
        terms = [weight / total * tuner.get_parameter(name).to(parameter) for tuner, weight in flat]
        parameter.copy_(torch.stack(terms).sum(0))
    mean.metadata = _agreed([tuner for tuner, _ in flat])
    return mean


def _flat(tuners: Sequence[tuple[Tuner | Bundle, float]]) -> list[tuple[Tuner, float]]:
    """Take bundles apart and multiply their own scales by the given one."""
    if not tuners:
        raise SceditError("there is nothing to merge", hint="give at least one tuner")
    scales = checked_scales([scale for _, scale in tuners], len(tuners))
    flat: list[tuple[Tuner, float]] = []
    for (each, _), scale in zip(tuners, scales, strict=True):
        if isinstance(each, Bundle):
            flat += [(tuner, scale * own) for tuner, own in zip(each.tuners, each.scales, strict=True)]
        else:
            flat.append((each, scale))
    return flat


@torch.no_grad()
def _concatenated(parts: Sequence[tuple[SCTuner, float]]) -> SCTuner:
    first = parts[0][0]
    hidden = [sum(widths) for widths in zip(*(t.hidden for t, _ in parts), strict=True)]
    dtype = _widest(tuner.dtype for tuner, _ in parts)
    merged = undrawn(SCTuner, first.channels, hidden, dtype=dtype, device=first.device)
    for i, to in enumerate(merged.maps):
        maps = [(tuner.maps[i], scale) for tuner, scale in parts]
        to.down.weight.copy_(torch.cat([each.down.weight.to(to.down.weight) for each, _ in maps]))
        to.down.bias.copy_(torch.cat([each.down.bias.to(to.down.bias) for each, _ in maps]))
        to.up.weight.copy_(torch.cat([scale * each.up.weight.to(to.up.weight) for each, scale in maps], dim=1))
        to.up.bias.copy_(sum(scale * each.up.bias.to(to.up.bias) for each, scale in maps))
    merged.metadata = _agreed([tuner for tuner, _ in parts])
    said = {tuner.up_blocks for tuner, _ in parts} - {None}
    merged.up_blocks = said.pop() if len(said) == 1 else None
    return merged


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def _agreed(tuners: Sequence[Tuner]) -> dict[str, str]:
    """Return a single tuner's metadata; of several, the facts about the base on which all that state any agree."""
    if len(tuners) == 1:
        return dict(tuners[0].metadata)
    facts = {}
    telling = [tuner.metadata for tuner in tuners if any(key in tuner.metadata for key in _SHARED)]
    for key in _SHARED:
        values = {each.get(key) for each in telling}
        if len(values) == 1 and None not in values:
            facts[key] = values.pop()
    return facts
