"""Files and folders of any name that a disk takes: written and read, or refused in a sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.commands import COMMANDS
from tests.faults.ends import told
from tests.faults.forked import each, run
from tests.faults.small import Small

NAMES: dict[str, Callable[[Path], str]] = {
    "spaces": lambda folder: " two  words ",
    "letters": lambda folder: "Größe-你好-🎨",
    "no text": lambda folder: os.fsdecode(b"caf\xe9"),
    "quotes": lambda folder: "it's \"[bold]\" $HOME %s {x} #1",
    "lines": lambda folder: "two\nlines",
    "longest": lambda folder: "n" * 255,
    "longest letters": lambda folder: "ä" * 127,
    "too long": lambda folder: "n" * 256,
    "deep": lambda folder: "/".join(["d" * 200] * 12),
    "too deep": lambda folder: "/".join(["d" * 200] * 25),
    "link": lambda folder: linked(folder, folder / "elsewhere", is_made=True),
    "dangling link": lambda folder: linked(folder, folder / "nowhere"),
    "loop": lambda folder: linked(folder, folder / "place"),
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "annotate"])
def test_output_of_odd_names(small: Small, tmp_path: Path, tried, name: str) -> None:
    """An output folder of any name is written, or refused in a sentence."""
    command = COMMANDS[name]

    def scenario(kind: str) -> int:
        place = command.made(small, tmp_path / kind.replace(" ", "-"))
        odd = NAMES[kind](place)
        suffix = ".safetensors" if name == "merge" and kind not in ("link", "dangling link", "loop") else ""
        out = place / (odd[: -len(suffix)] + suffix if suffix and "longest" in kind else odd + suffix)
        arguments = command.arguments(small, place)
        arguments[arguments.index("--out") + 1] = out
        ended = run(small.program(*(each for each in arguments if each != "--resume"), "--json"))
        if ended.code:
            told(ended, 2)
        else:
            assert out.is_file() if name == "merge" else any(out.iterdir()), ended
        plain = run(small.program(*arguments))  # a person's view: nothing that cannot be shown
        assert plain.code in (0, 2) and "Traceback" not in plain.err, plain
        return ended.code

    codes = dict(zip(NAMES, each(scenario, NAMES), strict=True))
    refused = {kind for kind, code in codes.items() if code}
    may_be = {"no text", "too long", "too deep", "deep", "dangling link", "loop"}
    assert refused <= may_be | ({"link"} if name == "merge" else set()), refused  # a link to a folder is no file
    tried(f"{name} into a folder of an odd name", len(codes))


def linked(folder: Path, to: Path, is_made: bool = False) -> str:
    if is_made:
        to.mkdir()
    (folder / "place").symlink_to(to)
    return "place"


# What each command reads, and which of its arguments names it.
INPUTS = {
    "train": ("small.toml", "a recipe"), "prepare": ("photos", "a source"), "annotate": ("data", "a dataset"),
    "generate": ("canny.safetensors", "a tuner"), "merge": ("canny.safetensors", "a tuner"),
}  # fmt: skip


READABLE = [kind for kind in NAMES if kind not in ("no text", "too long", "deep", "too deep", "dangling link", "loop")]


@pytest.mark.parametrize("name", INPUTS)
def test_input_of_odd_names(small: Small, tmp_path: Path, tried, name: str) -> None:
    """Read under every name that a disk takes, and through a link."""
    command, (given, what) = COMMANDS[name], INPUTS[name]

    def scenario(kind: str) -> None:
        place = command.made(small, tmp_path / kind.replace(" ", "-"))
        if name == "train":
            shutil.copy(small.recipe, place / given)
        if kind == "link":
            (odd := place / f"link{Path(given).suffix}").symlink_to(place / given)
        else:
            odd = (place / given).rename(place / fitting(NAMES[kind](place), Path(given).suffix))
        words = map(str, command.arguments(small, place))
        arguments = [word.replace(str(small.recipe), str(place / given)) for word in words]
        assert sum(str(place / given) in word for word in arguments) == 1
        ended = run(small.program(*(word.replace(str(place / given), str(odd)) for word in arguments), "--json"))
        assert ended.code == 0, ended

    each(scenario, READABLE)
    tried(f"{name} of {what} of an odd name", len(READABLE))


def fitting(name: str, suffix: str) -> str:
    """As long as names may be, with that suffix."""
    while len(os.fsencode(name + suffix)) > 255:
        name = name[:-1]
    return name + suffix
