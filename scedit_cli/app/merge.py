"""`scedit merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.app.options import Debug, Json, Overwrite, Quiet, screen_for


def merge(
    tuners: Annotated[list[str], typer.Argument(metavar="FILE[:SCALE]...", help="The tuners to put together.")],
    out: Annotated[Path, typer.Option("--out", help="The tuner file to write.")],
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put several tuners into one file, exactly.

    \b
    Examples:
      scedit merge canny.safetensors:0.7 color.safetensors:0.5 --out combo.safetensors
    """
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.jobs import merge as job

        result = job.merge(tuners, out=out, overwrite=overwrite, on_event=screen)
    screen.result(result.document(), result.summary())
