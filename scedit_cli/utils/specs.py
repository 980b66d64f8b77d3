"""Tuners as they are named, and the parsing of `[KIND,KIND=]FILE[:SCALE]`."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import KIND

if TYPE_CHECKING:
    from torch import nn

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
FRACTION = r"(?:\d+\.?\d*|\.\d+)"
_KINDS = re.compile(rf"({KIND}(?:,{KIND})*)=(.+)", re.DOTALL)
_TAIL = re.compile(rf":{_NUMBER}(?::{FRACTION}-{FRACTION})?$")


@dataclass(frozen=True)
class TunerSpec:
    """A tuner or bundle, or its file, folder, hub id or shipped name, and its scale α; None keeps a bundle's own.
    `conditions` name those of another program's CSC-Tuners, in order."""

    source: str | Path | nn.Module
    scale: float | None = None
    conditions: tuple[str, ...] = ()

    @property
    def file(self) -> str | None:
        """The name of the tuner's file, folder, hub id or shipped one; None for a tuner in memory."""
        return str(self.source) if isinstance(self.source, str | os.PathLike) else None

    @property
    def name(self) -> str:
        """The name of the tuner's file."""
        return str(self.source)


def parse_tuner(text: str, option: str = "tuners") -> TunerSpec:
    """Parse `[KIND,KIND=]FILE[:SCALE]`. Equal signs in an existing file's name belong to the name.

    Raises:
        SceditError: the scale is no number.
    """
    kinds, (name, tail) = "", split_file(text, most=1)
    if not os.path.exists(expanded(name)) and (named := _KINDS.fullmatch(text)):
        kinds, (name, tail) = named[1], split_file(named[2], most=1)
    scale = parse_scale(tail[0], f"{option} {text}") if tail else None
    return TunerSpec(name, scale, tuple(kinds.split(",")) if kinds else ())


def split_file(text: str, most: int) -> tuple[str, list[str]]:
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


def parse_scale(text: str, where: str, example: str = ":0.8 behind a file") -> float:
    """Parse a scale; `where` begins the error's sentence, and `example` ends its hint."""
    if not re.fullmatch(_NUMBER, text) or not math.isfinite(float(text)):
        raise SceditError(f"{where}: the scale {text!r} is no number", hint=f"give a number, as in {example}")
    return float(text)
