"""The command `scedit merge`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, parts, screen_for
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.specs import parse_tuner


def merge(
    tuners: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND=]FILE[:SCALE]...",
            help="Tuners to merge, such as canny.safetensors:0.7. KIND names the condition of another program's file.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Tuner file to write; for another program also a folder.")],
    average: Annotated[
        bool,
        typer.Option("--average", help="Average tuners of one condition, with the scales as weights; not exact."),
    ] = False,
    take: Annotated[
        list[str],
        typer.Option("--take", metavar="KIND", help='Use only these tuners, such as canny,sc ("sc": the SC-Tuner).'),
    ] = [],
    drop: Annotated[
        list[str], typer.Option("--drop", metavar="KIND", help="Use all tuners but these, such as color.")
    ] = [],
    rescale: Annotated[
        list[str],
        typer.Option("--rescale", metavar="KIND=SCALE", help="Scale of a tuner, such as canny=0.8, for the file's."),
    ] = [],
    rank: Annotated[
        int | None, typer.Option("--rank", help="Most hidden units per skip of the SC-Tuner; not exact.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option("--activations", metavar="BASE", help="Base whose skips --rank is fitted on, such as scenes."),
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Precision: fp16, bf16, fp32 or fp64; by default the tuners' own.")
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="Format: scedit, scepter, ms-swift, scedit-pytorch, comfyui, onnx or torch-export."
        ),
    ] = "scedit",
    base: Annotated[
        str | None, typer.Option("--base", help="Base whose U-Net onnx and torch-export write with its tuners.")
    ] = None,
    up_blocks: Annotated[
        str | None,
        typer.Option("--up-blocks", metavar="N,N,...", help="Skips that each up block takes, such as 3,3,3,3."),
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Merge several tuners into one file, exactly, or write one in another format.

    \b
    Examples:
      scedit merge canny.safetensors:0.7 color.safetensors:0.5 --out combo.safetensors
      scedit merge combo.safetensors --drop color --rescale canny=1 --dtype fp16 --out edges.safetensors
      scedit merge style.safetensors:0.6 look.safetensors:0.4 --rank 64 --activations scenes --out small.safetensors
      scedit merge canny=scepter/0_SwiftSCETuning --out canny.safetensors
      scedit merge style.safetensors --format ms-swift --out style-for-swift
      scedit merge canny.safetensors style.safetensors:0.6 --format comfyui --out ComfyUI/custom_nodes/scedit
      scedit merge canny.safetensors --format onnx --base models/sd15 --out canny-unet
    """
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.cli.parsing import parse_each_named
        from scedit_cli.jobs.checks.merge import MergeRequest, check

        request = MergeRequest(
            [parse_tuner(text) for text in tuners],
            out=out,
            average=average,
            take=parts(*take),
            drop=parts(*drop),
            rescale={
                kind: _scale(kind, text) for kind, text in parse_each_named(rescale, "--rescale", "canny=0.8").items()
            },
            rank=rank,
            activations=activations,
            device=device,
            dtype=dtype,
            format=format_,
            up_blocks=_counts(up_blocks) if up_blocks is not None else None,
            base=base,
            overwrite=overwrite,
        )
        check(request)  # refuses bad options before the slow import of PyTorch
        from scedit_cli.jobs import merge as job

        result = job.merge(replace(request, device=device_here(device)), reporter=screen)
    screen.result(result.document(), result.summary())


def _scale(kind: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SceditError(f"--rescale {kind}={text}: {text!r} is no number", f"for example --rescale {kind}=0.8")
    return number


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in parts(text)]
    except ValueError:
        hint = "for example --up-blocks 3,3,3,3"
        raise SceditError(f"--up-blocks {text}: expected whole numbers", hint) from None
