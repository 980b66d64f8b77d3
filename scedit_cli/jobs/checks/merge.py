"""The request of a merge, and its first checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from scedit_cli.core.foreign.formats import FORMATS, is_folder
from scedit_cli.exporting.formats import FOLDERS, GRAPHS, check_folder
from scedit_cli.jobs.checks.common import check_library
from scedit_cli.jobs.checks.tuners import header_of, known_conditions
from scedit_cli.models.names import check_model
from scedit_cli.utils.errors import SceditError, memory_told
from scedit_cli.utils.io import check_writable
from scedit_cli.utils.names import TUNER_PRECISIONS
from scedit_cli.utils.specs import TunerSpec

MEMORY = "tuners were merged", "end other programs, or merge fewer at once and the rest into what they give"


@dataclass(frozen=True)
class MergeRequest:
    """What to merge, and how to write it.

    Attributes:
        tuners: the tuners and bundles, with their scales.
        out: the tuner file, ending in .safetensors. In another program's format also a .bin file, or a folder. None
            writes nothing.
        average: whether to take the weighted mean of tuners of one condition and shape, with the scales as weights;
            not exact.
        take, drop: conditions to use, or to leave out; "sc" stands for SC-Tuners.
        rescale: α by condition, or "sc" for the only SC-Tuner, in place of the files' values.
        rank: the most hidden units per skip of the SC-Tuner; not exact.
        activations: a base whose skip features `rank` is fitted on; by default the fit uses the weights alone.
        device: the device of that base; by default an accelerator where there is one.
        dtype: "fp16", "bf16", "fp32" or "fp64"; by default the tuners' own.
        format: "scedit", or one of FORMATS; "comfyui" for a package of nodes; "onnx" or "torch-export" for the U-Net of
            `base` with the tuners in one graph.
        up_blocks: the number of skips that each up block of the base takes, where a format needs it and the tuners do
            not state it.
        base: the base whose U-Net a graph holds.
        overwrite: whether to replace `out` where it is a file.
    """

    tuners: Sequence[TunerSpec]
    out: Path | None = None
    average: bool = False
    take: Sequence[str] = ()
    drop: Sequence[str] = ()
    rescale: Mapping[str, float] = field(default_factory=dict)
    rank: int | None = None
    activations: str | None = None
    device: str | None = None
    dtype: str | None = None
    format: str = "scedit"
    up_blocks: Sequence[int] | None = None
    base: str | None = None
    overwrite: bool = False


@memory_told(*MEMORY)
def check(request: MergeRequest) -> None:
    """Raise SceditError for every fault that shows without weights."""
    _check_options(request)
    _check_graph(request)
    if request.out is not None:
        check_writable(request.out, "`out`")
        _check_place(request.out, request.format, request.overwrite)
    for model in (request.activations, request.base):
        if model is not None:
            check_model(model)
    files = [each.file for each in request.tuners]
    known = None if None in files else known_conditions([header_of(file) for file in files])
    if known is not None:
        names = {condition or "sc" for condition in known}
        check_chosen(request, names)
        if names <= set(request.drop):
            raise nothing_left()


def check_chosen(request: MergeRequest, names: Set[str]) -> None:
    """Raise SceditError if the request names tuners that are not among `names`, or both takes and drops some."""
    chosen: dict[str, Iterable[str]] = {"take": request.take, "drop": request.drop, "rescale": request.rescale}
    for argument, wanted in chosen.items():
        for name in wanted:
            if name not in names:
                hint = f"here are {', '.join(sorted(names))}"
                raise SceditError(f"`{argument}` {name}: no tuner of that name", hint, argument)
    if request.take and request.drop:
        raise SceditError("`take` and `drop` together", "say what to use, or what to leave out", "take")


def nothing_left() -> SceditError:
    return SceditError("`drop` leaves nothing to merge", "keep at least one tuner", "drop")


def _check_options(request: MergeRequest) -> None:
    if request.format not in (known := ("scedit", *FORMATS, *FOLDERS)):
        hint = f"choose one of {', '.join(known)}"
        raise SceditError(f"`format` {request.format}: not known", hint, "format")
    if request.out is None and request.format != "scedit":
        raise SceditError(f"`format` {request.format} is for a file, and no `out` names one", "name it", "format")
    if request.dtype is not None and request.dtype not in TUNER_PRECISIONS:
        hint = f"choose one of {', '.join(TUNER_PRECISIONS)}"
        raise SceditError(f"`dtype` {request.dtype}: not known", hint, "dtype")
    if request.rank is not None and request.rank < 1:
        hint = "give a positive number"
        raise SceditError(f"`rank` {request.rank}: at least one hidden unit has to stay", hint, "rank")
    if request.activations is not None and request.rank is None:
        told = "`activations` says what `rank` is fitted on, and there is no `rank`"
        raise SceditError(told, "add `rank`", "activations")
    if request.device is not None and request.activations is None:
        told = f"`device` {request.device} does nothing without `activations`: tuners are merged on the CPU"
        raise SceditError(told, field="device")
    if request.up_blocks and request.format not in ("ms-swift", "scedit-pytorch"):
        told = f"`up_blocks` is of no use in the format {request.format}"
        raise SceditError(told, "only ms-swift and scedit-pytorch keep up blocks", "up_blocks")


def _check_graph(request: MergeRequest) -> None:
    format, base, dtype = request.format, request.base, request.dtype
    if base is not None and format not in GRAPHS:
        hint = f"leave it out, or write {' or '.join(GRAPHS)}"
        raise SceditError(f"`base` {base}: the format {format} holds tuners alone", hint, "base")
    if format in GRAPHS and base is None:
        told = f"`format` {format} writes a base's U-Net with its tuners, and there is no `base`"
        raise SceditError(told, "name it with `base`", "base")
    if format in GRAPHS and dtype not in (None, "fp32", "fp16"):
        raise SceditError(f"`dtype` {dtype}: an exported U-Net is of fp32 or fp16", "leave it out for fp32", "dtype")
    for library in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        check_library("`format` onnx", library, "onnx")


def _check_place(out: Path, format: str, overwrite: bool) -> None:
    if format in FOLDERS:
        check_folder(out, format)
    if format == "scedit" and out.suffix != ".safetensors":
        told = f"`out` {out}: a tuner file ends in .safetensors"
        raise SceditError(told, f"name it {out.stem}.safetensors", "out")
    if format in FOLDERS or (format != "scedit" and is_folder(out)):
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise SceditError(f"`out` {out} exists already", "name another folder, or remove it first", "out")
    elif out.is_dir() or (out.exists() and not overwrite):
        raise SceditError(f"`out` {out} exists already", "name another file, or add `overwrite`", "out")
