"""`scedit annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.cli.options import Debug, Device, Json, Overwrite, Quiet, parts, screen_for
from scedit_cli.utils.devices import device_here
from scedit_cli.utils.errors import SceditError


def annotate(
    src: Annotated[Path | None, typer.Argument(help="A dataset folder, or one picture.", show_default=False)] = None,
    cond: Annotated[list[str], typer.Option("--cond", metavar="KIND", help="Kind of condition; repeatable.")] = [],
    annotator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who makes the kinds that have it (--list).")
    ] = None,
    param: Annotated[
        list[str],
        typer.Option(metavar="[KIND.]NAME=VALUE", help="A setting; LOW..HIGH draws it for each picture; repeatable."),
    ] = [],
    seed: Annotated[int, typer.Option(min=0, help="Of settings that are drawn.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="The condition picture to write, for one picture.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of several kinds side by side.")] = None,
    preview: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only show N pictures of a folder on a sheet.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A local copy of the annotator's weights, where no hub is.")
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept a licence that forbids commercial use.")
    ] = False,
    device: Device = None,
    processes: Annotated[int | None, typer.Option(min=1, help="On the CPU.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures an accelerator takes at once.")] = 8,
    list_: Annotated[bool, typer.Option("--list", help="Show every kind, who makes it, and licences.")] = False,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn pictures into condition pictures: edges, depth, segmentation, palettes, poses and more (--list).

    What is there already, of the same picture and settings, is kept. Under `accelerate launch` the pictures are shared.

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
            raise SceditError("no folder or picture is named", hint=f"for example {example}")
        if list_:
            from scedit_cli.conditions.listing import listing

            result = listing()
        else:
            from scedit_cli.jobs import annotate as job

            result = job.annotate(
                src, parts(*cond), out, annotator=annotator, params=param, seed=seed, weights=weights,
                accept_license=accept_license, sheet=sheet, preview=preview, overwrite=overwrite,
                device=device_here(device), processes=processes, batch_size=batch, on_event=screen,
            )  # fmt: skip
    if list_:
        screen.table(result.document(), result.header, result.rows(), texts=len(result.header))
    elif result.is_first:
        screen.result(result.document(), result.summary())
