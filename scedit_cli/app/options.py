"""Options that several commands share, and what reads their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scedit_cli.screen import Screen

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' warnings.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Tuners = Annotated[list[str], typer.Option("--tuner", metavar="FILE[:SCALE]", help="A tuner; repeatable.")]
BaseModel = Annotated[
    str, typer.Option("--base", help='"scenes" (embedded), a diffusers folder, hub id[@revision] or file.')
]


def screen_for(as_json: bool = False, quiet: bool = False, debug: bool = False) -> Screen:
    from scedit_cli.screen import Screen

    return Screen(as_json, quiet, debug)


def parts(*texts: str) -> list[str]:
    """ "a,b" and "c" -> ["a", "b", "c"]."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]
