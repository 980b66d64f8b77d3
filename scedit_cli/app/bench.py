"""`scedit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scedit_cli.app.options import Debug, Json, Quiet, Tuners, parts, screen_for


def bench(
    methods: Annotated[
        str, typer.Option(metavar="sc,lora,...", help="What to measure; by default sc,csc,lora,full,controlnet.")
    ] = "",
    base: Annotated[str | None, typer.Option("--base", help="What to measure on; else the embedded base.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures in a training step.")] = None,
    resolution: Annotated[int | None, typer.Option(min=8, help="Side of the pictures in pixels.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the frozen base: fp32, bf16 or fp16.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps to time.")] = None,
    quality: Annotated[bool, typer.Option("--quality", help="Measure control scores instead; needs --tuner.")] = False,
    tuner: Tuners = [],
    sampling: Annotated[bool, typer.Option("--sampling", help="Time a step of sampling instead.")] = False,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes that --quality looks at.")] = 128,
    plot: Annotated[Path | None, typer.Option(help="Also draw the result into this picture.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="An earlier --json document; exit code 1 if worse.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="How much worse than --baseline is the same.")] = 0.05,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the JSON document here.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure training methods side by side, or the control scores of tuners.

    \b
    Examples:
      scedit bench
      scedit bench --methods sc,csc,lora --batch 8 --json > bench.json
      scedit bench --methods sc,csc --json --baseline bench.json --tolerance 0.1
      scedit bench --sampling --base sd15 --resolution 256
      scedit bench --quality --tuner runs/canny/tuner.safetensors
    """
    if sampling:
        with screen_for(json_, quiet, debug) as screen:
            from scedit_cli.jobs import sampling as times

            result = times.sampling(base=base, resolution=resolution, dtype=dtype, steps=steps, on_event=screen)
        screen.table(result.document(), *result.table())
        return
    with screen_for(json_, quiet, debug) as screen:
        from scedit_cli.jobs import bench as job

        result = job.bench(
            base=base, methods=parts(methods) or None, batch=batch, resolution=resolution, dtype=dtype, steps=steps,
            quality=quality, tuners=tuner, scenes=scenes, plot=plot, baseline=baseline, tolerance=tolerance, out=out,
            on_event=screen,
        )
    screen.table(result.document(), *result.table())
    for sentence in result.worse:
        screen.warn(sentence)
    if result.worse:
        raise typer.Exit(1)
