"""The command line: six commands that translate options into one job's call each and show what it gives."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from scedit_cli.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.screen import Screen


class Terminated(KeyboardInterrupt):
    """SIGTERM. Jobs see what they see at Ctrl-C, and save their state alike."""


class Program(TyperGroup):
    """The group of commands. Whatever goes wrong ends in one sentence and an exit code: 1 the work failed, 2 bad
    input or usage, 130 Ctrl-C, 143 SIGTERM; the traceback is for --debug alone."""

    def main(self, args: list[str] | None = None, **extra: Any) -> None:
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        extra |= {"prog_name": "scedit", "standalone_mode": False}
        try:
            with _terminable():
                code = super().main(args, **extra)
        except Exception as error:
            # Looked up in the arguments: an error in parsing them comes before any option is known.
            code = _screen("--json" in args, debug="--debug" in args).fail(error)
        sys.exit(code or 0)

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            by, code = ("SIGTERM", 143) if isinstance(stop, Terminated) else ("Ctrl-C", 130)
            hint = "the same command with --resume goes on" if ctx.invoked_subcommand == "train" else None
            stopped = SceditError(f"stopped by {by}", hint)
            stopped.exit_code = code
            raise stopped from stop


app = typer.Typer(
    cls=Program,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' warnings.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Tuners = Annotated[list[str], typer.Option("--tuner", metavar="FILE[:SCALE]", help="A tuner; repeatable.")]
BaseModel = Annotated[str, typer.Option("--base", help='"scenes" (embedded), a diffusers folder, hub id or file.')]


def _show_version(wanted: bool) -> None:
    if wanted:
        from scedit_cli import __version__

        typer.echo(f"scedit {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune and control U-Net diffusion models by editing only their skip connections (SCEdit).

    \b
    Examples:
      scedit train --recipe canny.toml
      scedit prepare --scenes 8 --out scenes
      scedit generate --cond scenes/conditions/depth/000000.png --prompt "a red cube on a gray floor"
    """


@app.command()
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
    with _screen(json_, quiet, debug) as screen:
        from scedit_cli.jobs import prepare as job

        result = job.prepare(
            src, out=out, scenes=scenes, seed=seed, look=look, size=size, cache=_parts(cache), base=base,
            on_event=screen,
        )
    screen.result(result.document(), result.summary())


@app.command()
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
    with _screen(json_, quiet, debug) as screen:
        params = dict(_pair("--param", text) for text in param)
        from scedit_cli.jobs import annotate as job

        result = job.annotate(
            src, kinds=_parts(*cond), annotator=annotator, out=out, overwrite=overwrite, params=params, on_event=screen
        )
    screen.result(result.document(), result.summary())


@app.command()
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
    with _screen(json_, quiet, debug) as screen:
        from scedit_cli.recipe import load_recipe

        loaded = load_recipe(recipe, set_)
        from scedit_cli.jobs import train as job

        result = job.train(loaded, out=out, resume=resume, overwrite=overwrite, on_event=screen)
    screen.result(result.document(), result.summary())


@app.command()
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
    with _screen(json_, quiet, debug) as screen:
        from scedit_cli.jobs import generate as job

        result = job.generate(
            prompts=prompt or [""], conds=cond, conds_from=cond_from, tuners=tuner, base=base, negative=negative,
            seed=seed, num=num, steps=steps, guidance=guidance, scheduler=scheduler, width=width, height=height,
            out=out, grid=grid, score=score, overwrite=overwrite, on_event=screen,
        )
    screen.result(result.document(), result.summary())


@app.command()
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
    with _screen(json_, quiet, debug) as screen:
        from scedit_cli.jobs import merge as job

        result = job.merge(tuners, out=out, overwrite=overwrite, on_event=screen)
    screen.result(result.document(), result.summary())


@app.command()
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
      scedit bench --quality --tuner runs/canny/tuner.safetensors
    """
    with _screen(json_, quiet, debug) as screen:
        from scedit_cli.jobs import bench as job

        result = job.bench(
            base=base, methods=_parts(methods) or None, batch=batch, resolution=resolution, dtype=dtype, steps=steps,
            quality=quality, tuners=tuner, scenes=scenes, plot=plot, baseline=baseline, tolerance=tolerance, out=out,
            on_event=screen,
        )
    screen.table(result.document(), *result.table())
    for sentence in result.worse:
        screen.warn(sentence)
    if result.worse:
        raise typer.Exit(1)


def _screen(as_json: bool = False, quiet: bool = False, debug: bool = False) -> Screen:
    from scedit_cli.screen import Screen

    return Screen(as_json, quiet, debug)


def _parts(*texts: str) -> list[str]:
    """ "a,b" and "c" -> ["a", "b", "c"]."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise SceditError(f"{option} {text}: expected NAME=VALUE", hint=f"for example {option} low=50")
    return name, value


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises Terminated here, and ends forked workers quietly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here = os.getpid()

    def terminate(*_: object) -> None:
        if os.getpid() != here:
            os._exit(143)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """The program `scedit`."""
    app()
