"""`scedit prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.app.options import BaseModel, Debug, Json, Quiet, parts, screen_for


def prepare(
    out: Annotated[Path, typer.Option("--out", help="The dataset folder to write.")],
    src: Annotated[Path | None, typer.Argument(help="A folder of pictures; left out with --scenes.")] = None,
    scenes: Annotated[int | None, typer.Option(min=1, help="Render this many scenes of the embedded world.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = 0,
    look: Annotated[str, typer.Option(help="How scenes are drawn: plain or pastel.")] = "plain",
    size: Annotated[int | None, typer.Option(min=8, help="Side of the pictures in pixels.")] = None,
    cache: Annotated[str, typer.Option(metavar="latents,text", help="Encode once, now, what training needs.")] = "",
    base: BaseModel = "scenes",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a dataset folder: pictures, captions and condition pictures.

    \b
    Examples:
      scedit prepare --scenes 8 --out scenes
      scedit prepare --scenes 5000 --seed 7 --out world --cache latents,text
      scedit prepare photos --out dataset --size 512
    """
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.jobs import prepare as job

        result = job.prepare(
            src, out=out, scenes=scenes, seed=seed, look=look, size=size, cache=parts(cache), base=base,
            on_event=screen,
        )
    screen.result(result.document(), result.summary())
