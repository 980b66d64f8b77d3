"""Only the command line knows the names of its options: below it, messages name the arguments of functions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from scedit_cli.cli import app

PACKAGE = Path(__file__).parents[1] / "scedit_cli"
FILES = sorted(file for file in PACKAGE.rglob("*.py") if PACKAGE / "cli" not in file.parents)
# Programs of their own, and a page for users of the command line.
NOT_YET = {"benchmark/cuda.py", "benchmark/exported.py", "benchmark/together.py", "scenes/build", "training/model_card.py"}
OPTIONS = {
    option
    for command in get_command(app).commands.values()
    for parameter in command.params
    for option in (*parameter.opts, *parameter.secondary_opts)
    if option.startswith("--")
}


def options_in(file: Path) -> set[str]:
    return OPTIONS & set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", file.read_text("utf-8")))


def place_of(file: Path) -> str | None:
    """The line of NOT_YET that covers a file."""
    name = file.relative_to(PACKAGE).as_posix()
    return next((each for each in NOT_YET if name == each or name.startswith(f"{each}/")), None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_option_is_named_below_the_command_line(file: Path) -> None:
    if place_of(file) is None:
        assert not options_in(file)


def test_the_list_holds_only_what_names_options() -> None:
    assert len(OPTIONS) > 80
    assert {place_of(file) for file in FILES if options_in(file)} - {None} == NOT_YET
