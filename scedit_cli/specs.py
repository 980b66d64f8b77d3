"""What the command line's small languages say: `[KIND=]FILE[:SCALE[:START-END]]` and `FILE[:SCALE]`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import SceditError

_KIND = re.compile(r"([a-z][a-z0-9_-]*)=(.+)", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FRACTION = r"(?:\d+\.?\d*|\.\d+)"
_SPAN = re.compile(rf"({_FRACTION})-({_FRACTION})")
_TAIL = re.compile(rf":{_NUMBER}(?::{_FRACTION}-{_FRACTION})?$")


@dataclass(frozen=True)
class ConditionSpec:
    """A condition picture (or the photo that it is made from): its kind where one was named, its α, and between
    which fractions of the denoising steps it acts."""

    file: Path
    kind: str | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


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
    if not Path(text).exists() and (named := _KIND.fullmatch(text)):
        kind, rest = named.groups()
    file, tail = _split(rest, most=2)
    spec = {"file": Path(file).expanduser(), "kind": kind}
    if tail:
        spec["scale"] = _scale(tail[0], f"{option} {text}")
    if len(tail) == 2:
        spec["start"], spec["end"] = _span(tail[1], f"{option} {text}")
    return ConditionSpec(**spec)


def parse_tuner(text: str, option: str = "--tuner") -> TunerSpec:
    """Reads `FILE[:SCALE]`.

    Raises:
        SceditError: a scale that is no number.
    """
    name, tail = _split(text, most=1)
    return TunerSpec(name, _scale(tail[0], f"{option} {text}") if tail else None)


def _split(text: str, most: int) -> tuple[str, list[str]]:
    """The file's name and up to `most` fields behind it. The longest name that exists is the file's."""
    pieces = text.rsplit(":", most)
    for fields in range(len(pieces)):
        name = ":".join(pieces[: len(pieces) - fields])
        if name and Path(name).expanduser().exists():
            return name, pieces[len(pieces) - fields :]
    # Nothing is there: what looks like fields is taken for fields, so that the file is told by its own name.
    if found := _TAIL.search(text):
        name, fields = text[: found.start()], found[0][1:].split(":")
        if len(fields) <= most and name:
            return name, fields
    return text, []


def _scale(text: str, where: str) -> float:
    if not re.fullmatch(_NUMBER, text) or not math.isfinite(float(text)):
        raise SceditError(f"{where}: the scale {text!r} is no number", hint="write it as in depth.png:0.8")
    return float(text)


def _span(text: str, where: str) -> tuple[float, float]:
    found = _SPAN.fullmatch(text)
    start, end = map(float, found.groups()) if found else (0.0, 0.0)
    if not 0 <= start < end <= 1:
        raise SceditError(
            f"{where}: {text!r} is no part of the steps",
            hint="write two fractions from 0 to 1, as in depth.png:1:0-0.5 for the first half",
        )
    return start, end
