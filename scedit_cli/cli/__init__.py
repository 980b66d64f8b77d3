"""The command line: six commands, each of which translates its options into one job's call and shows the result."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from scedit_cli.cli.annotate import annotate
from scedit_cli.cli.bench import bench
from scedit_cli.cli.generate import generate
from scedit_cli.cli.main import Program, failed
from scedit_cli.cli.merge import merge
from scedit_cli.cli.prepare import prepare
from scedit_cli.cli.train import train

app = typer.Typer(
    cls=Program,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from scedit_cli.utils.version import __version__

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


for command in (prepare, annotate, train, generate, merge, bench):
    app.command()(command)


def main() -> None:
    """Run the program `scedit`."""
    try:
        app()
    except KeyboardInterrupt as stop:  # Ctrl-C came while Typer built the commands
        sys.exit(failed(stop, sys.argv))
