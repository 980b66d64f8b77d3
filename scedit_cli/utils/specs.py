"""What the command line's small languages say: `[KIND=]FILE[:SCALE[:START-END]]`, `FILE[:SCALE]` and their kin."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded

_KIND = re.compile(r"([a-z][a-z0-9_-]*)=(.+)", re.DOTALL)
_NAMED = re.compile(r"([a-z][a-z0-9_-]*(?:,[a-z][a-z0-9_-]*)*)=(.+)", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FRACTION = r"(?:\d+\.?\d*|\.\d+)"
_SPAN = re.compile(rf"({_FRACTION})-({_FRACTION})")
_MOST_SEEDS = 10_000
LARGEST_SEED = 2**64 - 1  # as PyTorch takes them, and ComfyUI draws them
_TAIL = re.compile(rf":{_NUMBER}(?::{_FRACTION}-{_FRACTION})?$")


@dataclass(frozen=True)
class ConditionSpec:
    """A condition picture (or the photo that it is made from, by its kind's annotator): its kind where one was named,
    its α, and between which fractions of the denoising steps it acts."""

    file: Path
    kind: str | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    photo: bool = False

    @property
    def option(self) -> str:
        """Where it stood on the command line."""
        return "--cond-from" if self.photo else "--cond"


@dataclass(frozen=True)
class TunerSpec:
    """A tuner's file, folder, hub id or shipped name, and its α; None leaves a bundle its own."""

    name: str
    scale: float | None = None


def parse_condition(text: str, option: str = "--cond") -> ConditionSpec:
    """Reads `[KIND=]FILE[:SCALE[:START-END]]`. Colons and equal signs in the name of a file that exists are its own.

    Raises:
        SceditError: a scale that is no number, or a span outside 0 to 1 or of no length.
    """
    kind, rest = None, text
    if not os.path.exists(text) and (named := _KIND.fullmatch(text)):
        kind, rest = named.groups()
    file, tail = _split(rest, most=2)
    spec = {"file": expanded(file), "kind": kind, "photo": option == "--cond-from"}
    if tail:
        spec["scale"] = _scale(tail[0], f"{option} {text}")
    if len(tail) == 2:
        spec["start"], spec["end"] = parse_span(tail[1], f"{option} {text}")
    return ConditionSpec(**spec)


def parse_tuner(text: str, option: str = "--tuner") -> TunerSpec:
    """Reads `FILE[:SCALE]`.

    Raises:
        SceditError: a scale that is no number.
    """
    name, tail = _split(text, most=1)
    return TunerSpec(name, _scale(tail[0], f"{option} {text}") if tail else None)


def parse_ingredient(text: str) -> tuple[list[str], TunerSpec]:
    """Reads `[KIND,KIND=]FILE[:SCALE]`, a tuner to merge: the kinds that it names, and the tuner.

    Raises:
        SceditError: a scale that is no number.
    """
    if not os.path.exists(expanded(text)) and (named := _NAMED.fullmatch(text)):
        return named[1].split(","), parse_tuner(named[2], "tuner")
    return [], parse_tuner(text, "tuner")


def check_chosen(take: Iterable[str], drop: Iterable[str], rescale: Iterable[str], names: Set[str]) -> None:
    """Raises SceditError where the options of a merge name tuners that are not among `names`, or exclude each other."""
    for option, wanted in (("--take", take), ("--drop", drop), ("--rescale", rescale)):
        for name in wanted:
            if name not in names:
                raise SceditError(
                    f"{option} {name}: no tuner of that name", hint=f"here are {', '.join(sorted(names))}"
                )
    if take and drop:
        raise SceditError("--take and --drop together", hint="say what to use, or what to leave out")


def parse_span(text: str, where: str) -> tuple[float, float]:
    """Reads `START-END`, two fractions of the steps; `where` begins the sentence of an error.

    Raises:
        SceditError: it is no such pair, outside 0 to 1, or of no length.
    """
    found = _SPAN.fullmatch(text)
    start, end = map(float, found.groups()) if found else (0.0, 0.0)
    if not 0 <= start < end <= 1:
        raise SceditError(
            f"{where}: {text!r} is no part of the steps",
            hint="write two fractions from 0 to 1, as in 0-0.5 for the first half",
        )
    return start, end


def parse_named(text: str, option: str, example: str) -> tuple[str, str]:
    """Reads `NAME=VALUE`, NAME being a kind of condition, a column or a tuner's name.

    Raises:
        SceditError: it has no name or no value.
    """
    name, _, value = text.partition("=")
    if not (name and value):
        raise SceditError(f"{option} {text}: expected NAME=VALUE", hint=f"write it as in {option} {example}")
    return name, value


def parse_sweep(text: str, option: str = "--sweep") -> tuple[str, tuple[float, ...]]:
    """Reads `NAME=SCALE,SCALE,...`.

    Raises:
        SceditError: a scale that is no number, or none.
    """
    name, values = parse_named(text, option, "canny=0,0.5,1" if option == "--sweep" else "canny=0.5")
    return name, tuple(_scale(value.strip(), f"{option} {text}") for value in values.split(","))


def parse_seeds(text: str, where: str = "--seed") -> tuple[int, ...]:
    """Reads `7`, `1,2,3` or `1-8`, also together: `1-3,7`. At most 10,000, in the order given.

    Raises:
        SceditError: what is no whole number from 0 to 2⁶⁴ − 1, or a range that counts down.
    """
    seeds: list[int] = []
    for part in str(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + _MOST_SEEDS or last > LARGEST_SEED:
            raise SceditError(
                f"{where} is {text}",
                hint=f"give a number from 0 to {LARGEST_SEED}, several as 1,2,3, or a range as 1-8",
            )
        seeds += range(first, last + 1)
    return tuple(seeds)


def parse_margins(text: str) -> tuple[int, int, int, int]:
    """Reads `PIXELS` for every side, or `LEFT,TOP,RIGHT,BOTTOM`.

    Raises:
        SceditError: other than one or four whole numbers from 0 on, or nothing but zeros.
    """
    parts = [part.strip() for part in text.split(",")]
    sides = [int(part) for part in parts if re.fullmatch(r"\d{1,5}", part)]
    if len(sides) != len(parts) or len(sides) not in (1, 4) or not any(sides):
        raise SceditError(
            f"--outpaint {text}: no margins", hint="give the pixels to add: 64 all around, or LEFT,TOP,RIGHT,BOTTOM"
        )
    left, top, right, bottom = sides * (4 // len(sides))
    return left, top, right, bottom


def _split(text: str, most: int) -> tuple[str, list[str]]:
    """The file's name and up to `most` fields behind it. The longest name that exists is the file's."""
    pieces = text.rsplit(":", most)
    for fields in range(len(pieces)):
        name = ":".join(pieces[: len(pieces) - fields])
        if name and os.path.exists(expanded(name)):  # pathlib raises where a name is too long
            return name, pieces[len(pieces) - fields :]
    # Nothing is there: what looks like fields is taken for fields, so that the file is told by its own name.
    if found := _TAIL.search(text):
        name, fields = text[: found.start()], found[0][1:].split(":")
        if len(fields) <= most and name:
            return name, fields
    return text, []


def _scale(text: str, where: str) -> float:
    if not re.fullmatch(_NUMBER, text) or not math.isfinite(float(text)):
        raise SceditError(f"{where}: the scale {text!r} is no number", hint="give a number, as in :0.8 behind a file")
    return float(text)
