"""The tuners that go into a merge: loaded, named, chosen, rescaled, and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scedit_cli.core.skips import in_words
from scedit_cli.inference.controls import PlacedTuner, check_trained_alike, load_placed
from scedit_cli.jobs.checks.merge import MergeRequest, check_chosen, nothing_left
from scedit_cli.utils.errors import SceditError


def gathered(request: MergeRequest) -> list[PlacedTuner]:
    """Return the tuners of a request, with bundles taken apart.

    Raises:
        SceditError: a file is missing, no tuner or holds values that are not finite, a name is of no tuner, or of
            several to rescale, or no tuner is left.
    """
    rescale = request.rescale
    placed = [each for number, spec in enumerate(request.tuners) for each in load_placed(spec, f"tuners[{number}]")]
    for each in placed:
        for name, parameter in each.tuner.named_parameters():
            if not parameter.isfinite().all():
                raise SceditError(f"{each.file}: {name} holds values that are not numbers", hint="get the file again")
    check_chosen(request, {_name(each) for each in placed})
    taken = request.take or {_name(each) for each in placed}
    placed = [each for each in placed if _name(each) in taken and _name(each) not in request.drop]
    if not placed:
        raise nothing_left()
    for name in rescale:
        if sum(_name(each) == name for each in placed) > 1:
            hint = "give each its scale behind its file"
            raise SceditError(f"`rescale` {name}: there are several such tuners", hint, "rescale")
    return [
        replace(each, own_scale=rescale[_name(each)], factor=1.0) if _name(each) in rescale else each for each in placed
    ]


def check_together(placed: Sequence[PlacedTuner], averaged: bool = False) -> list[str]:
    """Check that tuners go into one file: all for one base, of one size, and for different conditions; to be averaged,
    for one condition and of one shape.

    Returns:
        The files that do not name their base, where others do.

    Raises:
        SceditError: two of the tuners, named in the message, do not go together, or weights of a mean add up to 0.
    """
    first = placed[0]
    takers: dict[str | None, PlacedTuner] = {}
    for each in placed:
        if each.tuner.channels != first.tuner.channels:
            raise SceditError(
                f"{each.file} edits skips of {in_words(each.tuner.channels)} channels, "
                f"{first.file} of {in_words(first.tuner.channels)}",
                hint="merge tuners for the same base",
            )
        if averaged and (_name(each), each.tuner.sizes) != (_name(first), first.tuner.sizes):
            raise SceditError(
                f"{first.file} ({_name(first)}) and {each.file} ({_name(each)}) are of different conditions or shapes",
                hint="`average` takes tuners of one condition and shape; without it, conditions become a bundle",
            )
        condition = each.tuner.condition
        if condition and condition in takers and not averaged:
            alike = each.tuner.sizes == takers[condition].tuner.sizes
            raise SceditError(
                f"{takers[condition].file} and {each.file} both take {condition} conditions",
                hint="leave one out" + (", or add `average` for the mean of their weights" if alike else "")
                if "format" in each.tuner.metadata
                else "leave one out, or name the conditions: canny=FILE depth=FILE",
            )
        takers[condition] = each
    if averaged and sum(each.scale for each in placed) == 0:
        raise SceditError(
            "`average`: the scales add up to 0", hint="they are the weights of the mean; give positive ones"
        )
    return _check_bases(placed)


def _check_bases(placed: Sequence[PlacedTuner]) -> list[str]:
    stated = [each for each in placed if "base_fingerprint" in each.tuner.metadata]
    for each in stated:
        if each.tuner.metadata["base_fingerprint"] != stated[0].tuner.metadata["base_fingerprint"]:
            raise SceditError(
                f"tuners of different bases: {_with_base(stated[0])} and {_with_base(each)}",
                hint="merge tuners that were trained on one base",
            )
    check_trained_alike(
        placed, "merge tuners that were trained with the same train.prediction and train.zero_terminal_snr"
    )
    return list(dict.fromkeys(each.file for each in placed if each not in stated)) if stated else []


def _with_base(placed: PlacedTuner) -> str:
    facts = placed.tuner.metadata
    return f"{placed.file} (trained on {facts.get('base', 'a base')}, fingerprint {facts['base_fingerprint'][:12]})"


def _name(placed: PlacedTuner) -> str:
    return placed.tuner.condition or "sc"
