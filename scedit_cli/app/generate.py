"""`scedit generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.app.options import BaseModel, Debug, Json, Overwrite, Quiet, Tuners, screen_for


def generate(
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; repeatable.")] = [],
    cond: Annotated[
        list[str],
        typer.Option("--cond", metavar="[KIND=]FILE[:SCALE[:START-END]]", help="A condition picture; repeatable."),
    ] = [],
    cond_from: Annotated[
        list[str],
        typer.Option("--cond-from", metavar="KIND=PHOTO", help="A photo to annotate first; repeatable."),
    ] = [],
    tuner: Tuners = [],
    base: BaseModel = "scenes",
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture; the next ones count on.")] = 0,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="Pictures for each prompt.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Classifier-free guidance scale.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="The sampler, by its name in diffusers.")] = None,
    width: Annotated[int | None, typer.Option(min=8, help="In pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=8, help="In pixels.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A picture's name (.png), else a folder.")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Also write one picture of them all.")] = False,
    score: Annotated[bool, typer.Option("--score", help="Measure how well pictures follow their conditions.")] = False,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make pictures from prompts, condition pictures and tuners.

    With no --tuner, the embedded base's own tuner of the condition's kind is used.

    \b
    Examples:
      scedit generate --cond scenes/conditions/depth/000000.png --out depth.png
      scedit generate --cond canny=edges.png --prompt "a green cone on a gray floor" --num 4 --grid
      scedit generate --cond-from canny=photo.png --cond color=palette.png:0.6 --score
      scedit generate --tuner runs/canny/tuner.safetensors:0.8 --cond canny=edges.png
    """
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.jobs import generate as job

        result = job.generate(
            prompts=prompt or [""], conds=cond, conds_from=cond_from, tuners=tuner, base=base, negative=negative,
            seed=seed, num=num, steps=steps, guidance=guidance, scheduler=scheduler, width=width, height=height,
            out=out, grid=grid, score=score, overwrite=overwrite, on_event=screen,
        )
    screen.result(result.document(), result.summary())
