"""`scedit merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, parts, screen_for
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError


def merge(
    tuners: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND=]FILE[:SCALE]...",
            help="The tuners to put together. KIND names the condition of another program's CSC-Tuner.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The tuner file to write.")],
    average: Annotated[
        bool, typer.Option("--average", help="The mean of tuners of one condition; scales are weights. Not exact.")
    ] = False,
    take: Annotated[
        list[str], typer.Option("--take", metavar="KIND", help='Use only these of a bundle; "sc" is the SC-Tuner.')
    ] = [],
    drop: Annotated[list[str], typer.Option("--drop", metavar="KIND", help="Use all but these of a bundle.")] = [],
    rescale: Annotated[
        list[str], typer.Option("--rescale", metavar="KIND=SCALE", help="Another scale for a tuner of a bundle.")
    ] = [],
    rank: Annotated[
        int | None, typer.Option("--rank", help="At most so many hidden units a skip for an SC-Tuner; not exact.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option("--activations", metavar="BASE", help="Fit --rank on what this base's skips hold while it draws."),
    ] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="fp16, bf16, fp32 or fp64.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="Whose file: scedit, scepter, ms-swift or scedit-pytorch.")
    ] = "scedit",
    up_blocks: Annotated[
        str | None,
        typer.Option("--up-blocks", metavar="N,N,...", help="How many skips each up block takes, for other programs."),
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put several tuners into one file, exactly; or one into another form.

    \b
    Examples:
      scedit merge canny.safetensors:0.7 color.safetensors:0.5 --out combo.safetensors
      scedit merge combo.safetensors --drop color --rescale canny=1 --dtype fp16 --out edges.safetensors
      scedit merge style.safetensors:0.6 look.safetensors:0.4 --rank 64 --activations scenes --out small.safetensors
      scedit merge canny=scepter/0_SwiftSCETuning --out canny.safetensors
      scedit merge style.safetensors --format ms-swift --out style-for-swift
    """
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.jobs.checks import merge as checks

        options = {
            "out": out,
            "take": parts(*take),
            "drop": parts(*drop),
            "rescale": dict(map(_scale, rescale)),
            "rank": rank,
            "activations": activations,
            "device": device,
            "dtype": dtype,
            "format": format_,
            "up_blocks": _counts(up_blocks) if up_blocks is not None else None,
            "overwrite": overwrite,
        }
        checks.check(tuners, **options)  # before PyTorch is imported
        from scedit_cli.jobs import merge as job

        options["device"] = device_here(device)
        result = job.merge(tuners, **options, average=average, on_event=screen)
    screen.result(result.document(), result.summary())


def _scale(text: str) -> tuple[str, float]:
    """ "canny=0.5" -> ("canny", 0.5)."""
    kind, _, scale = text.partition("=")
    try:
        return kind, float(scale)
    except ValueError:
        hint = f"for example --rescale {kind or 'canny'}=0.8"
        raise SceditError(f"--rescale {text}: {scale!r} is no number", hint) from None


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in parts(text)]
    except ValueError:
        hint = "for example --up-blocks 3,3,3,3"
        raise SceditError(f"--up-blocks {text}: expected whole numbers", hint) from None
