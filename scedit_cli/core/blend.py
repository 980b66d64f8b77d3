"""Exact merging of tuners: no approximation, one file instead of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from scedit_cli.core.bundle import Bundle, check_together, checked_scales
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.errors import SceditError

_SHARED = ("base", "base_fingerprint", "prediction_type")


def merge(tuners: Sequence[tuple[Tuner | Bundle, float]]) -> SCTuner | Bundle:
    """Merges tuners with their scales α into one that gives the same edits.

    SC-Tuners become one: the maps' hidden units side by side, α folded into the up-projection, so that
    Σ α_i·T_i(x) = T(x). CSC-Tuners depend on their own hints and stay themselves, in a bundle that keeps their α;
    bundles are taken apart first. The result is on the first tuner's device.

    Returns:
        An SCTuner if there are only SC-Tuners, otherwise a Bundle, its SC-Tuner (if any) first.

    Raises:
        SceditError: nothing to merge, tuners for different skips, one condition twice, or a scale that is no number.
    """
    if not tuners:
        raise SceditError("there is nothing to merge", hint="give at least one tuner")
    scales = checked_scales([scale for _, scale in tuners], len(tuners))
    flat: list[tuple[Tuner, float]] = []
    for (each, _), scale in zip(tuners, scales, strict=True):
        if isinstance(each, Bundle):
            flat += [(tuner, scale * own) for tuner, own in zip(each.tuners, each.scales, strict=True)]
        else:
            flat.append((each, scale))
    plain = [(tuner, scale) for tuner, scale in flat if not isinstance(tuner, CSCTuner)]
    hinted = [(tuner, scale) for tuner, scale in flat if isinstance(tuner, CSCTuner)]
    check_together([tuner for tuner, _ in flat])
    parts = ([(_concatenated(plain), 1.0)] if plain else []) + hinted
    if not hinted:
        merged: SCTuner | Bundle = parts[0][0]
    else:
        merged = Bundle([tuner for tuner, _ in parts], [scale for _, scale in parts])
    merged.metadata = _agreed([tuner for tuner, _ in flat])
    return merged


@torch.no_grad()
def _concatenated(parts: Sequence[tuple[SCTuner, float]]) -> SCTuner:
    first = parts[0][0]
    merged = SCTuner(first.channels, [sum(widths) for widths in zip(*(t.hidden for t, _ in parts), strict=True)])
    merged.to(first.device, _widest(tuner.dtype for tuner, _ in parts))
    for i, to in enumerate(merged.maps):
        maps = [(tuner.maps[i], scale) for tuner, scale in parts]
        to.down.weight.copy_(torch.cat([each.down.weight.to(to.down.weight) for each, _ in maps]))
        to.down.bias.copy_(torch.cat([each.down.bias.to(to.down.bias) for each, _ in maps]))
        to.up.weight.copy_(torch.cat([scale * each.up.weight.to(to.up.weight) for each, scale in maps], dim=1))
        to.up.bias.copy_(sum(scale * each.up.bias.to(to.up.bias) for each, scale in maps))
    return merged


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def _agreed(tuners: Sequence[Tuner]) -> dict[str, str]:
    """The facts about the base that all the tuners state alike."""
    facts = {}
    for key in _SHARED:
        values = {tuner.metadata.get(key) for tuner in tuners}
        if len(values) == 1 and None not in values:
            facts[key] = values.pop()
    return facts
