"""The first checks of `scedit merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scedit_cli.core.foreign.formats import FORMATS, is_folder
from scedit_cli.exporting.formats import FOLDERS, GRAPHS, check_folder
from scedit_cli.jobs.checks.common import check_library
from scedit_cli.jobs.checks.tuners import header_of, known_conditions
from scedit_cli.models.names import check_model
from scedit_cli.utils.errors import SceditError, memory_told
from scedit_cli.utils.io import check_writable
from scedit_cli.utils.names import TUNER_PRECISIONS
from scedit_cli.utils.specs import check_chosen, parse_ingredient

MEMORY = "tuners were merged", "end other programs, or merge fewer at once and the rest into what they give"


@memory_told(*MEMORY)
def check(
    tuners: Sequence[str],
    *,
    out: str | Path,
    take: Sequence[str] = (),
    drop: Sequence[str] = (),
    rescale: Mapping[str, float],
    rank: int | None = None,
    activations: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    format: str = "scedit",
    up_blocks: Sequence[int] | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> None:
    """Raise SceditError for every fault that shows without weights."""
    _check_options(rank, activations, device, dtype, format, up_blocks)
    _check_graph(format, base, dtype)
    check_writable(out, "--out")
    _check_place(Path(out), format, overwrite)
    for model in (activations, base):
        if model is not None:
            check_model(model)
    ingredients = [parse_ingredient(text) for text in tuners]
    known = known_conditions([header_of(spec.name) for _, spec in ingredients])
    if known is not None:
        names = {condition or "sc" for condition in known}
        check_chosen(take, drop, rescale, names)
        if names <= set(drop):
            raise SceditError("--drop leaves nothing to merge", hint="keep at least one tuner")


def _check_options(
    rank: int | None,
    activations: str | None,
    device: str | None,
    dtype: str | None,
    format: str,
    up_blocks: Sequence[int] | None,
) -> None:
    if format not in (known := ("scedit", *FORMATS, *FOLDERS)):
        raise SceditError(f"--format {format}: not known", hint=f"choose one of {', '.join(known)}")
    if dtype is not None and dtype not in TUNER_PRECISIONS:
        raise SceditError(f"--dtype {dtype}: not known", hint=f"choose one of {', '.join(TUNER_PRECISIONS)}")
    if rank is not None and rank < 1:
        raise SceditError(f"--rank {rank}: at least one hidden unit has to stay", hint="give a positive number")
    if activations is not None and rank is None:
        raise SceditError("--activations says what --rank is fitted on, and there is no --rank", hint="add --rank")
    if device is not None and activations is None:
        raise SceditError(f"--device {device} does nothing without --activations: tuners are merged on the CPU")
    if up_blocks and format not in ("ms-swift", "scedit-pytorch"):
        raise SceditError(
            f"--up-blocks is of no use in the format {format}", hint="only ms-swift and scedit-pytorch keep up blocks"
        )


def _check_graph(format: str, base: str | None, dtype: str | None) -> None:
    if base is not None and format not in GRAPHS:
        raise SceditError(
            f"--base {base}: the format {format} holds tuners alone",
            hint=f"leave it out, or write {' or '.join(GRAPHS)}",
        )
    if format in GRAPHS and base is None:
        raise SceditError(
            f"--format {format} writes a base's U-Net with its tuners, and there is no --base",
            hint="name it with --base",
        )
    if format in GRAPHS and dtype not in (None, "fp32", "fp16"):
        raise SceditError(f"--dtype {dtype}: an exported U-Net is of fp32 or fp16", hint="leave it out for fp32")
    for library in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        check_library("--format onnx", library, "onnx")


def _check_place(out: Path, format: str, overwrite: bool) -> None:
    if format in FOLDERS:
        check_folder(out, format)
    if format == "scedit" and out.suffix != ".safetensors":
        raise SceditError(f"--out {out}: a tuner file ends in .safetensors", hint=f"name it {out.stem}.safetensors")
    if format in FOLDERS or (format != "scedit" and is_folder(out)):
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise SceditError(f"--out {out} exists already", hint="name another folder, or remove it first")
    elif out.is_dir() or (out.exists() and not overwrite):
        raise SceditError(f"--out {out} exists already", hint="name another file, or add --overwrite")
