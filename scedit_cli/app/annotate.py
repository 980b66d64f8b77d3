"""`scedit annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.app.options import Debug, Json, Overwrite, Quiet, pair, parts, screen_for


def annotate(
    src: Annotated[Path, typer.Argument(help="A dataset folder, or one picture.")],
    cond: Annotated[list[str], typer.Option("--cond", metavar="KIND", help="Kind of condition; repeatable.")],
    annotator: Annotated[str | None, typer.Option(help="Who makes it, where a kind has several.")] = None,
    param: Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="An annotator's setting; repeatable.")] = [],
    out: Annotated[Path | None, typer.Option("--out", help="The condition picture to write, for one picture.")] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn pictures into condition pictures: edges, depth, segmentation, palettes.

    \b
    Examples:
      scedit annotate photo.png --cond canny --out edges.png
      scedit annotate scenes --cond canny --cond depth
      scedit annotate photo.png --cond canny --param low=50 --out edges.png
    """
    with screen_for(json_, quiet, debug) as screen:
        params = dict(pair("--param", text) for text in param)
        from scedit_cli.jobs import annotate as job

        result = job.annotate(
            src, kinds=parts(*cond), annotator=annotator, out=out, overwrite=overwrite, params=params, on_event=screen
        )
    screen.result(result.document(), result.summary())
