"""Options that several commands share, and the parsing of their texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from scedit_cli.cli.option_names import in_options
from scedit_cli.utils.devices import check_name
from scedit_cli.utils.distributed import launched_rank
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.cli.console import Screen

Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout, everything else to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' warnings.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Tuners = Annotated[
    list[str],
    typer.Option(
        "--tuner", metavar="[KIND=]FILE[:SCALE]",
        help="Tuner, such as style.safetensors:0.6; repeatable. KIND names the condition of another program's file.",
    ),
]  # fmt: skip
BaseModel = Annotated[
    str, typer.Option("--base", help='"scenes" (embedded), a diffusers folder, hub id\\[@revision] or file.')
]


Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="cpu|cuda|cuda:N|mps", callback=check_name,
        help="Device that computes; by default the accelerator, else the CPU.",
    ),
]  # fmt: skip


def screen_for(as_json: bool = False, quiet: bool = False, debug: bool = False) -> Screen:
    from scedit_cli.cli.console import Screen

    return Screen(as_json, quiet, debug)


@contextmanager
def screen_of_first(as_json: bool, quiet: bool, debug: bool) -> Iterator[Screen]:
    """Open the screen of a job that torchrun may have started in several processes: the first one shows the progress of
    all, and an error that ends another is a line on stderr."""
    rank = launched_rank()
    with screen_for(as_json, quiet or rank > 0, debug) as screen:
        try:
            yield screen
        except SceditError as error:
            if not rank:
                raise
            screen.warn(f"process {rank}: {in_options(str(error), error.field)}")
            raise typer.Exit(error.exit_code) from error


def parts(*texts: str) -> list[str]:
    """Split "a,b" and "c" to ["a", "b", "c"]."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]
