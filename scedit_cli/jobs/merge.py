"""`scedit merge`: several tuners in one file, exactly, and read back to prove it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scedit_cli.controls import PlacedTuner, load_placed
from scedit_cli.core import blend
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.skips import in_words
from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, Tuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.errors import SceditError, WorkFailed
from scedit_cli.files import whole
from scedit_cli.jobs.progress import Note, OnEvent
from scedit_cli.specs import parse_tuner

_SIDE = 4  # of the random features that tuners are compared on
_EXACT = 1e-4  # of the largest edit: beyond what the order of a float32 sum changes

Weighted = tuple[Tuner, float]


@dataclass(frozen=True)
class MergedTuner:
    """A tuner that went into the merged file: where it came from and its α there."""

    file: str
    kind: str
    condition: str | None
    scale: float


@dataclass(frozen=True)
class MergeResult:
    """The file as written; `max_difference` is the largest absolute difference between its edits and the sum of the
    separate tuners' edits, on random features and hints."""

    out: Path
    kind: str
    tuners: list[MergedTuner]
    max_difference: float

    def document(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "out": str(self.out),
            "kind": self.kind,
            "tuners": [asdict(tuner) for tuner in self.tuners],
            "max_difference": self.max_difference,
        }

    def summary(self) -> list[tuple[str, str]]:
        """The rows that a person reads."""
        rows = [("merged", f"{self.out}, {'an SC-Tuner' if self.kind == 'sc' else 'a bundle'}")]
        rows += [(f"{each.scale:g} ×", f"{each.file} ({each.condition or 'SC'})") for each in self.tuners]
        return rows + [("difference", f"{self.max_difference:.1e} at most from the separate tuners")]


def merge(
    tuners: Sequence[str],
    *,
    out: str | Path,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> MergeResult:
    """Merge tuner files into one that gives the same edits. SC-Tuners become one SC-Tuner; with CSC-Tuners among
    them, the result is a bundle with a tuner for each condition and at most one SC-Tuner.

    The file is read back and compared with the separate tuners before it appears; the largest difference is kept in
    its metadata as `merge.max_difference`.

    Args:
        tuners: `FILE[:SCALE]`; a scale multiplies the scales that a bundle has already.
        out: the tuner file, ending in .safetensors.
        overwrite: replace `out` where it exists.

    Raises:
        SceditError: a file that is missing or no tuner, tuners that do not go together, or an `out` that exists.
        WorkFailed: what was read back gives other edits, or the disk is full.
    """
    tell = on_event or (lambda event: None)
    out = Path(out)
    if out.suffix != ".safetensors":
        raise SceditError(f"--out {out}: a tuner file ends in .safetensors", hint=f"name it {out.stem}.safetensors")
    if out.exists() and not overwrite:
        raise SceditError(f"--out {out} exists already", hint="name another file, or add --overwrite")
    placed = [each for text in tuners for each in load_placed(parse_tuner(text, "tuner"))]
    _check_together(placed, tell)
    parts = [(each.tuner, each.scale) for each in placed]
    merged = blend.merge(parts)
    with whole(out) as file:
        save_tuner(merged, file)
        difference = largest_difference(parts, _parts(load_tuner(file)))
        # Again, now that the difference is known; the title would else be the temporary file's.
        save_tuner(merged, file, {"merge.max_difference": f"{difference:.3g}", "modelspec.title": out.stem})
    sources = [MergedTuner(each.file, each.tuner.kind, each.tuner.condition, each.scale) for each in placed]
    return MergeResult(out, merged.kind, sources, difference)


@torch.no_grad()
def largest_difference(parts: Sequence[Weighted], merged: Sequence[Weighted]) -> float:
    """The largest absolute difference between the summed edits of two lists of tuners with their scales, over random
    features of every skip and one random hint per condition.

    Raises:
        WorkFailed: it is more than rounding explains.
    """
    draw = torch.Generator().manual_seed(0)
    channels = parts[0][0].channels
    skips = [torch.randn(2, width, _SIDE, _SIDE, generator=draw) for width in channels]
    hints = {
        tuner.condition: torch.rand(2, tuner.in_channels, _SIDE * HINT_SCALE, _SIDE * HINT_SCALE, generator=draw)
        for tuner, _ in parts
        if isinstance(tuner, CSCTuner)
    }
    expected, got = _edits(parts, skips, hints), _edits(merged, skips, hints)
    difference = max(float((e - g).abs().max()) for e, g in zip(expected, got, strict=True))
    largest = max(float(edit.abs().max()) for edit in expected)
    if not difference <= _EXACT * max(1.0, largest):  # a NaN is a difference too
        raise WorkFailed(
            f"the merged file gives edits that differ by {difference:.1e} from the separate tuners'",
            hint="a scale is too large for float32, or a tuner holds values that are not numbers",
        )
    return difference


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


def _parts(merged: Tuner | Bundle) -> list[Weighted]:
    return list(zip(merged.tuners, merged.scales, strict=True)) if isinstance(merged, Bundle) else [(merged, 1.0)]


def _check_together(placed: Sequence[PlacedTuner], tell: OnEvent) -> None:
    """Raises SceditError where tuners are for different bases or sizes, or for one condition; names their files."""
    takers: dict[str, str] = {}
    for each in placed:
        if each.tuner.channels != placed[0].tuner.channels:
            raise SceditError(
                f"{each.file} edits skips of {in_words(each.tuner.channels)} channels, "
                f"{placed[0].file} of {in_words(placed[0].tuner.channels)}",
                hint="merge tuners for the same base",
            )
        if (condition := each.tuner.condition) in takers:
            raise SceditError(
                f"{takers[condition]} and {each.file} both take {condition} conditions",
                hint="leave one out; only SC-Tuners can be added up",
            )
        if condition:
            takers[condition] = each.file
    stated = [each for each in placed if "base_fingerprint" in each.tuner.metadata]
    for each in stated:
        if each.tuner.metadata["base_fingerprint"] != stated[0].tuner.metadata["base_fingerprint"]:
            raise SceditError(
                f"tuners of different bases: {_with_base(stated[0])} and {_with_base(each)}",
                hint="merge tuners that were trained on one base",
            )
    silent = dict.fromkeys(each.file for each in placed if each not in stated)
    if stated:
        for file in silent:
            tell(Note(f"{file} does not say what base it was trained on; it is taken to be that of {stated[0].file}"))


def _with_base(placed: PlacedTuner) -> str:
    facts = placed.tuner.metadata
    return f"{placed.file} (trained on {facts.get('base', 'a base')}, fingerprint {facts['base_fingerprint'][:8]})"
