"""`scedit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.app.options import Debug, Json, Overwrite, Quiet, screen_for


def train(
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A TOML file, else a built-in recipe's name.")],
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key; repeatable.")] = [],
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; by default a new one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a tuner by a recipe. Built in: canny, depth, seg, color, style.

    \b
    Examples:
      scedit train --recipe canny.toml
      scedit train --recipe canny.toml --set train.steps=1200 --out runs/longer
      scedit train --recipe canny.toml --out runs/longer --resume
      scedit train --recipe mine.toml --set data.path=dataset --json
    """
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.recipe import load_recipe

        loaded = load_recipe(recipe, set_)
        from scedit_cli.jobs import train as job

        result = job.train(loaded, out=out, resume=resume, overwrite=overwrite, on_event=screen)
    screen.result(result.document(), result.summary())
