"""The job `scedit merge`: several tuners in one file, exactly, read back to prove it; or one in another format."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scedit_cli.core import blend
from scedit_cli.core.bundle import Bundle, parts_of
from scedit_cli.core.compare import Difference, Weighted, difference_of
from scedit_cli.core.compress import compress, recorded, rows_for
from scedit_cli.core.foreign.formats import is_folder
from scedit_cli.core.foreign.writing import Export, export
from scedit_cli.core.tuners import SCTuner, Tuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.exporting.comfyui import NodePackage, node_package
from scedit_cli.exporting.formats import FOLDERS, GRAPHS
from scedit_cli.exporting.graph_files import UNetGraph, write_checked
from scedit_cli.inference.controls import PlacedTuner, as_trained, check_base, rescheduled_for
from scedit_cli.inference.sampler import sample
from scedit_cli.jobs import merge_inputs
from scedit_cli.jobs.checks.merge import MEMORY, MergeRequest, check
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError, WorkFailed, memory_told
from scedit_cli.utils.io import whole, whole_folder
from scedit_cli.utils.reporter import SILENT, Reporter

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
_EXACT = 1e-4  # share of the largest edit; the order of a float32 sum changes less
_PICTURES = 16  # images that a base draws to record its skip features


@dataclass(frozen=True)
class MergedTuner:
    """A tuner that went into the merged file: its source file and its α in the result."""

    file: str
    kind: str
    condition: str | None
    scale: float


@dataclass(frozen=True)
class Compressed:
    """The effect of `rank`: `on` names what the fit was made on ("the weights", or a base), and `errors` are the
    relative errors of the edit on features that the fit did not see, for each skip in encoder order."""

    rank: int
    on: str
    errors: list[float]

    @property
    def error(self) -> float:
        return sum(self.errors) / len(self.errors)


@dataclass(frozen=True)
class MergeResult:
    """The merged tuner, and the file or folder that it was written to. `max_difference` is the largest absolute
    difference between its edits and the sum (with `average`, the weighted mean) of the separate tuners' edits on random
    features and hints, and `relative_difference` the norm of that difference as a share of the sum's."""

    out: Path | None
    kind: str
    tuners: list[MergedTuner]
    max_difference: float
    relative_difference: float = 0.0
    format: str = "scedit"
    average: bool = False
    compressed: Compressed | None = None
    tuner: Tuner | Bundle | None = None

    def document(self) -> dict[str, Any]:
        """Return the document as JSON values."""
        return {
            "out": None if self.out is None else str(self.out),
            "kind": self.kind,
            "format": self.format,
            "tuners": [asdict(tuner) for tuner in self.tuners],
            "average": self.average,
            "rank": self.compressed and asdict(self.compressed) | {"error": self.compressed.error},
            "max_difference": self.max_difference,
            "relative_difference": self.relative_difference,
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (name, value) that a person reads."""
        what = {"sc": "an SC-Tuner", "csc": "a CSC-Tuner", "bundle": "a bundle"}[self.kind]
        whose = "" if self.format == "scedit" else f" for {self.format}"
        rows = [("averaged" if self.average else "merged", f"{self.out}, {what}{whose}")]
        rows += [(f"{each.scale:g} ×", f"{each.file} ({each.condition or 'SC'})") for each in self.tuners]
        if self.compressed:
            error, worst = self.compressed.error, max(self.compressed.errors)
            rows.append(
                ("rank", f"{self.compressed.rank}, fitted on {self.compressed.on}: the edit is {error:.1%} off")
            )
            rows.append(("", f"{worst:.1%} on the worst skip"))
        said = f"{_percent(self.relative_difference)} of the edit of the separate tuners"
        if math.isinf(self.relative_difference):
            said = f"at most {self.max_difference:.1g}: the separate tuners cancel each other"
        return [*rows, ("difference", f"{said}, on random features")]


@memory_told(*MEMORY)
def merge(request: MergeRequest, reporter: Reporter | None = None) -> MergeResult:
    """Merge tuners into one that gives the same edits. SC-Tuners become one SC-Tuner; with CSC-Tuners among them, the
    result is a bundle with a tuner for each condition and at most one SC-Tuner.

    A written file is read back and compared with the separate tuners before it appears; the largest difference is
    kept in its metadata as `merge.max_difference`.

    Raises:
        SceditError: a file is missing or no tuner, the tuners or the options do not go together, or `out` exists.
        WorkFailed: the merged tuner gives other edits, or memory or disk ran out.
    """
    reporter = reporter or SILENT
    check(request)
    placed = merge_inputs.gathered(request)
    if silent := merge_inputs.check_together(placed, request.average):
        stated = next(each.file for each in placed if each.file not in silent)
        for file in silent:
            reporter.note(f"{file} does not say what base it was trained on; it is taken to be that of {stated}")
    parts: list[Weighted] = [(each.tuner, each.scale) for each in placed]
    if request.average:
        merged: Tuner | Bundle = blend.average(parts)
        total = sum(scale for _, scale in parts)
        parts = [(tuner, scale / total) for tuner, scale in parts]
        reporter.note(
            "an average is not exact: a map of mean weights is not the mean of the maps; look at what it draws"
        )
    else:
        merged = blend.merge(parts)
    compressed = None
    if request.rank is not None:
        merged, compressed = _compressed(merged, request, placed, reporter)
    if request.up_blocks:
        for tuner, _ in parts_of(merged):
            tuner.up_blocks = tuple(request.up_blocks)
    facts = {"merge.average": "true"} if request.average else {}
    if compressed:
        facts |= {"merge.rank": str(request.rank), "merge.rank_error": f"{compressed.error:.3g}"}
    dtype = DTYPES.get(request.dtype)
    exact = not request.average and request.rank is None and dtype not in (torch.float16, torch.bfloat16)
    if request.out is None:
        merged = _rounded(merged, dtype)
        difference = (_check_alike if exact else difference_of)(parts, parts_of(merged))
    elif request.format in GRAPHS:
        difference = _write_graph(merged, placed, request, facts)
    else:
        difference = _write(merged, parts, exact, request, facts, reporter)
    return MergeResult(
        out=request.out,
        kind=merged.kind,
        tuners=[MergedTuner(each.file, each.tuner.kind, each.tuner.condition, each.scale) for each in placed],
        max_difference=difference.largest,
        relative_difference=difference.relative,
        format=request.format,
        average=request.average,
        compressed=compressed,
        tuner=merged,
    )


def _write(
    merged: Tuner | Bundle,
    parts: Sequence[Weighted],
    exact: bool,
    request: MergeRequest,
    facts: dict[str, str],
    reporter: Reporter,
) -> Difference:
    """Write `merged`, read it back, and return the difference of its edits from those of `parts`, which its metadata
    states too."""
    out, dtype = request.out, DTYPES.get(request.dtype)
    if request.format == "scedit":
        exported: Export | NodePackage | None = None
    else:
        exported = node_package(merged) if request.format == "comfyui" else export(merged, request.format)
    folder = request.format in FOLDERS or (exported is not None and is_folder(out))
    expected = parts_of(_rounded(merged, dtype))

    def write(place: Path, facts: dict[str, str]) -> None:
        if exported:
            exported.write(place, facts, dtype)
        else:
            save_tuner(merged, place, facts, dtype=dtype)

    with whole_folder(out) if folder else whole(out, replace=request.overwrite) as place:
        write(place, facts)
        read = _read_back(place, exported, [tuner.condition for tuner, _ in expected if tuner.condition])
        _check_alike(expected, read)
        difference = _check_alike(parts, read) if exact else difference_of(parts, read)
        # The file is written again with the difference, and with a title that is not the temporary file's name.
        found = {
            "merge.max_difference": f"{difference.largest:.3g}",
            "merge.relative_difference": f"{difference.relative:.3g}",
        }
        write(place, facts | found | {"modelspec.title": out.stem})
    for note in exported.notes + (() if folder else exported.file_notes) if exported else ():
        reporter.note(note)
    return difference


def _write_graph(
    merged: Tuner | Bundle, placed: Sequence[PlacedTuner], request: MergeRequest, facts: dict[str, str]
) -> Difference:
    """Write the base's U-Net with `merged` as one graph; return the difference of its output from the attached
    tuners'."""
    loaded = load_base(as_trained(request.base, placed), dtype=DTYPES[request.dtype or "fp32"], device="cpu")
    for each in placed:
        check_base(each, loaded)
    return write_checked(UNetGraph(rescheduled_for(placed, loaded), merged, request.format), request.out, facts)


def _read_back(place: Path, exported: Export | NodePackage | None, conditions: list[str]) -> list[Weighted]:
    if exported is None:
        return parts_of(load_tuner(place))
    files = exported.located(place)
    if len(files) == 1:
        return parts_of(load_tuner(files[0], conditions))
    # Each file holds one tuner; the SC-Tuner, which takes no hint, comes first.
    names = [[]] * (len(files) - len(conditions)) + [[condition] for condition in conditions]
    return [part for file, name in zip(files, names, strict=True) for part in parts_of(load_tuner(file, name))]


def _check_alike(expected: Sequence[Weighted], read: Sequence[Weighted]) -> Difference:
    """Return the difference of their edits.

    Raises:
        SceditError: a scale makes the edits overflow float32.
        WorkFailed: the difference is larger than rounding explains.
    """
    difference = difference_of(expected, read)
    if not math.isfinite(difference.edit):
        raise SceditError("the merged edits are too large for float32", hint="give smaller scales")
    if not difference.largest <= _EXACT * max(1.0, difference.edit):  # a NaN is a difference too
        raise WorkFailed(
            f"the merged file gives edits that differ by {_percent(difference.relative)} from the separate tuners'",
            hint="nothing was written; please report it, with the tuners",
        )
    return difference


def _rounded(merged: Tuner | Bundle, dtype: torch.dtype | None) -> Tuner | Bundle:
    """Return `merged` as a file of this dtype will give it back.

    Raises:
        SceditError: a value overflows the dtype.
    """
    rounded = copy.deepcopy(merged)
    if dtype:
        rounded = rounded.to(dtype).to(torch.float64 if dtype == torch.float64 else torch.float32)
    if not all(parameter.isfinite().all() for parameter in rounded.parameters()):
        name = str(dtype or next(merged.parameters()).dtype).removeprefix("torch.")
        raise SceditError(
            f"the merged weights are too large for {name}", hint="give smaller scales, or a dtype of a wider range"
        )
    return rounded


def _compressed(
    merged: Tuner | Bundle, request: MergeRequest, placed: Sequence[PlacedTuner], reporter: Reporter
) -> tuple[Tuner | Bundle, Compressed]:
    """Return `merged` with its SC-Tuner compressed, and the errors of the compression."""
    rank, activations = request.rank, request.activations
    sc, others = (merged.tuners[0], merged) if isinstance(merged, Bundle) else (merged, None)
    if not isinstance(sc, SCTuner):
        raise SceditError("`rank` compresses an SC-Tuner, and there is none here", "leave `rank` out", "rank")
    features = None
    if activations is not None:
        base = load_base(as_trained(activations, placed), device=request.device)
        for each in placed:
            check_base(each, base, "`activations`")
        with recorded(base.unet, rows_for(sc)) as features:
            sample(
                base,
                [""] * _PICTURES,
                seeds=range(_PICTURES),
                reporter=reporter.stage("drawing"),
            )
    small, errors = compress(sc, rank, features, reporter.stage("compressing"))
    if small.hidden == sc.hidden:
        reporter.note(f"a rank of {rank} takes nothing away: no skip has more hidden units")
    result = Compressed(rank, activations or "the weights", errors)
    if others is None:
        return small, result
    bundle = Bundle([small, *others.tuners[1:]], others.scales)
    bundle.metadata = others.metadata
    return bundle, result


def _percent(share: float) -> str:
    return "less than 0.001 %" if share < 1e-5 else f"{100 * share:.2g} %" if share < 1 else f"{100 * share:,.0f} %"
