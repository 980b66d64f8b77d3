"""The texts of the command line as objects; nothing below knows them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import KIND, LARGEST_SEED
from scedit_cli.utils.specs import FRACTION, parse_scale, split_file

if TYPE_CHECKING:
    from scedit_cli.inference.config import Control

_KIND = re.compile(rf"({KIND})=(.+)", re.DOTALL)
_SPAN = re.compile(rf"({FRACTION})-({FRACTION})")
_MOST_SEEDS = 10_000
_WIDEST_MARGIN = 99_999


def parse_control(text: str, option: str = "--cond", kind: str | None = None) -> Control:
    """Parse `[KIND=]FILE[:SCALE[:START-END]]`. Colons and equal signs in an existing file's name belong to the name.
    Without a kind, the name of a condition image or of its folder gives it.

    Args:
        option: the option or place that the message names; with "--cond-from", the file is a photograph.
        kind: the kind of a text that names none.

    Raises:
        SceditError: no kind is told, the scale is no number, or the span is empty or outside 0 to 1.
    """
    from scedit_cli.conditions import kind_of_path
    from scedit_cli.inference.config import Control

    rest = text
    if kind is None and not os.path.exists(text) and (named := _KIND.fullmatch(text)):
        kind, rest = named.groups()
    name, tail = split_file(rest, most=2)
    file, is_photo = expanded(name), option == "--cond-from"
    if kind is None and is_photo:
        raise SceditError(f"{option} {file}: the kind of condition is missing", hint=f"write canny={file}")
    if (kind := kind or kind_of_path(file)) is None:
        if not file.exists():
            raise SceditError(f"{option}: {file} does not exist", hint="check the path")
        hint = f"say it: {option} canny={file}"
        raise SceditError(f"{option} {file}: neither its name nor its folder's tells the kind of condition", hint)
    scale = parse_scale(tail[0], f"{option} {text}") if tail else 1.0
    span = parse_span(tail[1], f"{option} {text}") if len(tail) == 2 else (0.0, 1.0)
    return Control(kind, **{"photo" if is_photo else "image": file}, scale=scale, start=span[0], end=span[1])


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


def parse_each_named(texts: Iterable[str], option: str, example: str) -> dict[str, str]:
    """Parse `NAME=VALUE` texts.

    Raises:
        SceditError: a text has another form, or two name the same.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, value = parse_named(text, option, example)
        if name in found:
            raise SceditError(f"{option} {text}: {name} is {found[name]} already", hint="name each once")
        found[name] = value
    return found


def parse_scales(texts: Iterable[str], option: str) -> dict[str, tuple[float, ...]]:
    """Parse `NAME=SCALE,SCALE,...` texts; with the option --scale, one scale alone.

    Raises:
        SceditError: a scale is no number, there are none or too many, or two texts name the same.
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        example = "canny=0.5" if option == "--scale" else "canny=0,0.5,1"
        name, values = parse_named(text, option, example)
        scales = tuple(parse_scale(value.strip(), f"{option} {text}", example) for value in values.split(","))
        if option == "--scale" and len(scales) > 1:
            raise SceditError(f"{option} {text}: several scales", hint="--sweep makes an image for each")
        if name in found:
            raise SceditError(f"{option} {text}: {name} has one already", hint="name each tuner once")
        found[name] = scales
    return found


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


def count_seeds(text: str | int | None, num: int | None) -> tuple[int, ...]:
    """Return the seeds of --seed, or `num` seeds that count on from its one.

    Raises:
        SceditError: as `parse_seeds`; or there are several to count on from, or they pass the largest.
    """
    seeds = (0,) if text is None else parse_seeds(str(text))
    if num is None:
        return seeds
    if num < 1:
        raise SceditError(f"--num is {num}", hint="give 1 or more")
    if num > _MOST_SEEDS:
        hint = f"make at most {_MOST_SEEDS} at once, and go on with --seed {seeds[-1] + _MOST_SEEDS}"
        raise SceditError(f"--num is {num}", hint)
    if len(seeds) > 1:
        hint = "give --seed one number to count on from, or no --num"
        raise SceditError(f"--num {num} and {len(seeds)} seeds", hint)
    if seeds[0] + num - 1 > LARGEST_SEED:
        raise SceditError(f"--seed {seeds[0]} --num {num}: the largest seed is {LARGEST_SEED}", "begin lower")
    return tuple(range(seeds[0], seeds[0] + num))


def parse_margins(text: str) -> tuple[int, int, int, int]:
    """Parse `PIXELS` for every side, or `LEFT,TOP,RIGHT,BOTTOM`, into four margins in pixels.

    Raises:
        SceditError: the text is not one or four whole numbers from 0 to 99999, or all are zero.
    """
    parts = [part.strip() for part in text.split(",")]
    sides = [int(part) for part in parts if re.fullmatch(r"\d{1,18}", part)]
    if len(sides) != len(parts) or len(sides) not in (1, 4) or not any(sides):
        raise SceditError(
            f"--outpaint {text}: no margins", hint="give the pixels to add: 64 all around, or LEFT,TOP,RIGHT,BOTTOM"
        )
    if max(sides) > _WIDEST_MARGIN:
        raise SceditError(f"--outpaint {text}: too wide", f"a margin is of at most {_WIDEST_MARGIN} pixels")
    left, top, right, bottom = sides * (4 // len(sides))
    return left, top, right, bottom


def parse_masks(texts: Iterable[str]) -> dict[str, Path]:
    """Parse `NAME=FILE` texts.

    Raises:
        SceditError: a text has another form, or two name the same.
    """
    masks: dict[str, Path] = {}
    for text in texts:
        name, file = parse_named(text, "--mask", "canny=left.png")
        if name in masks:
            raise SceditError(f"two masks for {name}", hint="paint them into one image")
        masks[name] = expanded(file)
    return masks
