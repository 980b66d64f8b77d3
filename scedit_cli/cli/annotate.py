"""The command `scedit annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, parts, screen_for
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError


def annotate(
    src: Annotated[Path | None, typer.Argument(help="A dataset folder, or one image.", show_default=False)] = None,
    cond: Annotated[
        list[str], typer.Option("--cond", metavar="KIND", help="Kinds of condition, such as canny,depth; repeatable.")
    ] = [],
    annotator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Annotator for the kinds that have it; by default a kind's first (--list)."),
    ] = None,
    param: Annotated[
        list[str],
        typer.Option(
            metavar="[KIND.]NAME=VALUE",
            help="Annotator setting, such as canny.low=50; LOW..HIGH draws a value for each image; repeatable.",
        ),
    ] = [],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the settings that LOW..HIGH draws.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Condition image (.png) to write, of one image.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Grid (.png) to write, of one image beside its condition images.")
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only write a grid of a folder's first N images and their conditions."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with local copies of the annotators' weights; by default the hub's."),
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept weights' licences that forbid commercial use.")
    ] = False,
    device: Device = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on the CPU, at most 8; by default one per processor.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images that an accelerator annotates at once.")] = 8,
    list_: Annotated[
        bool, typer.Option("--list", help="Show every kind, its annotators and their licences, and exit.")
    ] = False,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn images into condition images: edges, depth, segmentation, palettes, poses and more (--list).

    Condition images made from the same image with the same settings are kept. `accelerate launch` divides the images
    among its processes.

    \b
    Examples:
      scedit annotate --list
      scedit annotate photo.png --cond canny --out edges.png
      scedit annotate photo.png --cond canny,color,depth --sheet sheet.png
      scedit annotate dataset --cond canny --param low=50..150 --preview 8
      scedit annotate dataset --cond canny --cond depth --annotator scene
      accelerate launch -m scedit_cli annotate dataset --cond depth
    """
    with screen_for(json_, quiet, debug) as screen:
        if src is None and not list_:
            example = "scedit annotate photo.png --cond canny --out edges.png"
            raise SceditError("no folder or image is named", hint=f"for example {example}")
        if list_:
            from scedit_cli.conditions.listing import listing

            result = listing()
        else:
            from scedit_cli.conditions.annotation_spec import parameters_of
            from scedit_cli.conditions.config import AnnotatorConfig
            from scedit_cli.jobs import annotate as job

            if src.is_file() and not (out or sheet or preview):
                raise SceditError(f"no place is named for the condition of {src}", "name it with --out edges.png")
            kinds = list(dict.fromkeys(parts(*cond)))
            config = AnnotatorConfig(
                annotator, seed, weights, accept_license, device_here(device), processes, batch
            )  # fmt: skip
            result = job.annotate(
                src, kinds, out=out, sheet=sheet, preview=preview, overwrite=overwrite, config=config, reporter=screen,
                **parameters_of(kinds, param, "--param"),
            )  # fmt: skip
    if list_:
        screen.table(result.document(), result.header, result.rows(), texts=len(result.header))
    elif result.is_first:
        screen.result(result.document(), result.summary())
