"""Parsers for the command line's value syntaxes: `[KIND=]FILE[:SCALE[:START-END]]`, `FILE[:SCALE]` and their kin."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded

_KIND = re.compile(r"([a-z][a-z0-9_-]*)=(.+)", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FRACTION = r"(?:\d+\.?\d*|\.\d+)"
_SPAN = re.compile(rf"({_FRACTION})-({_FRACTION})")
_MOST_SEEDS = 10_000
LARGEST_SEED = 2**64 - 1  # the largest that PyTorch takes and ComfyUI draws
_TAIL = re.compile(rf":{_NUMBER}(?::{_FRACTION}-{_FRACTION})?$")


@dataclass(frozen=True)
class ConditionSpec:
    """A condition image, or the photograph that its kind's annotator makes it from (`photo`), with its kind where one
    was named, its scale α, and the fractions of the denoising steps between which it acts."""

    file: Path
    kind: str | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    photo: bool = False

    @property
    def option(self) -> str:
        """The command-line option that gave it."""
        return "--cond-from" if self.photo else "--cond"


@dataclass(frozen=True)
class TunerSpec:
    """A tuner's file, folder, hub id or shipped name, and its scale α; with None, a bundle keeps its own scales."""

    name: str
    scale: float | None = None


def parse_condition(text: str, option: str = "--cond") -> ConditionSpec:
    """Parse `[KIND=]FILE[:SCALE[:START-END]]`. Colons and equal signs in an existing file's name belong to the name.

    Raises:
        SceditError: the scale is no number, or the span is empty or outside 0 to 1.
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
    """Parse `FILE[:SCALE]`.

    Raises:
        SceditError: the scale is no number.
    """
    name, tail = _split(text, most=1)
    return TunerSpec(name, _scale(tail[0], f"{option} {text}") if tail else None)


def parse_span(text: str, where: str) -> tuple[float, float]:
    """Parse `START-END`, two fractions of the steps; `where` begins the error's sentence.

    Raises:
        SceditError: it is no such pair, empty, or outside 0 to 1.
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
    """Parse `NAME=VALUE`, with NAME a kind of condition, a column or a tuner's name.

    Raises:
        SceditError: it has no name or no value.
    """
    name, _, value = text.partition("=")
    if not (name and value):
        raise SceditError(f"{option} {text}: expected NAME=VALUE", hint=f"write it as in {option} {example}")
    return name, value


def parse_sweep(text: str, option: str = "--sweep") -> tuple[str, tuple[float, ...]]:
    """Parse `NAME=SCALE,SCALE,...`.

    Raises:
        SceditError: a scale is no number, or there is none.
    """
    name, values = parse_named(text, option, "canny=0,0.5,1" if option == "--sweep" else "canny=0.5")
    return name, tuple(_scale(value.strip(), f"{option} {text}") for value in values.split(","))


def parse_seeds(text: str, where: str = "--seed") -> tuple[int, ...]:
    """Parse `7`, `1,2,3`, `1-8` or a mixture such as `1-3,7` into at most 10,000 seeds, in this order.

    Raises:
        SceditError: a seed is no whole number from 0 to 2⁶⁴ − 1, a range counts down, or there are more.
    """
    seeds: list[int] = []
    for part in str(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        count = last - first + 1
        if count < 1 or last > LARGEST_SEED or len(seeds) + count > _MOST_SEEDS:
            raise SceditError(
                f"{where} is {text}" if count < 1 or last > LARGEST_SEED else f"{where}: more than {_MOST_SEEDS} seeds",
                hint=f"give a number from 0 to {LARGEST_SEED}, several as 1,2,3, or a range as 1-8",
            )
        seeds += range(first, last + 1)
    return tuple(seeds)


def parse_margins(text: str) -> tuple[int, int, int, int]:
    """Parse `PIXELS` for every side, or `LEFT,TOP,RIGHT,BOTTOM`, into four margins in pixels.

    Raises:
        SceditError: the text is not one or four whole numbers from 0 on, or all are zero.
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
    """Return the file's name and up to `most` fields behind it; the longest existing name is taken for the file's."""
    pieces = text.rsplit(":", most)
    for fields in range(len(pieces)):
        name = ":".join(pieces[: len(pieces) - fields])
        if name and os.path.exists(expanded(name)):  # pathlib would raise for a name that is too long
            return name, pieces[len(pieces) - fields :]
    # No such file exists: text that looks like fields is taken for fields, so that the error names the file alone.
    if found := _TAIL.search(text):
        name, fields = text[: found.start()], found[0][1:].split(":")
        if len(fields) <= most and name:
            return name, fields
    return text, []


def _scale(text: str, where: str) -> float:
    if not re.fullmatch(_NUMBER, text) or not math.isfinite(float(text)):
        raise SceditError(f"{where}: the scale {text!r} is no number", hint="give a number, as in :0.8 behind a file")
    return float(text)
