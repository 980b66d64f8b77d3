"""The contact sheet of a dataset folder: images with their conditions, captions and sizes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from scedit_cli.data.dataset import METADATA, condition_name
from scedit_cli.data.hints import open_condition_image
from scedit_cli.data.images import image_size, open_image

_ROWS = 12  # images shown
_LEAST, _MOST, _GAP, _CAPTION = 112, 192, 10, 330  # pixels: a cell's least and greatest side, gaps, a caption's width
_LEGIBLE = 300  # letters of a caption, more of which never fit
_INK, _FAINT, _PAPER = (38, 38, 44), (120, 120, 130), (255, 255, 255)


def overview(path: Path, kinds: Sequence[str], images: int, heading: str) -> Image.Image:
    """Draw up to twelve of the `images` images of the dataset folder `path`, evenly spaced, under `heading`, with the
    conditions of `kinds`, caption and size of each image."""
    rows = _evenly(path / METADATA, images)
    sides = [max(image_size(path / row["file_name"])) for row in rows]
    cell = min(_MOST, max(_LEAST, *sides))
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    left = [_GAP + column * (cell + _GAP) for column in range(2 + len(kinds))]
    top = 2 * _GAP + 44
    paired = 2 if len(rows) > 4 and not kinds else 1  # without conditions the sheet has two columns of images
    wide = left[-1] + _CAPTION + _GAP
    lines = -(-len(rows) // paired)
    sheet = Image.new("RGB", (wide * paired, top + lines * (cell + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), heading, _INK, font)
    for column in range(paired):
        for x, name in zip(left, ("picture", *kinds, "caption"), strict=True):
            draw.text((column * wide + x, _GAP + 26), name, _FAINT, small)
    for number, row in enumerate(rows):
        column, line = divmod(number, lines)
        x, y = column * wide, top + line * (cell + _GAP)
        image = open_image(path / row["file_name"])
        size = f"{image.width}x{image.height}"
        files = [(path / condition_name(kind, row["file_name"]), kind) for kind in kinds]
        shown = [image, *(open_condition_image(*each).convert("RGB") for each in files)]
        for at, image in zip(left[:-1], shown, strict=True):
            image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(image, (x + at + (cell - image.width) // 2, y + (cell - image.height) // 2))
        _write(draw, (x + left[-1], y + 4), row["text"] or "(no caption)", font, cell - 34)
        draw.text((x + left[-1], y + cell - 22), f"{Path(row['file_name']).name}   {size}", _FAINT, small)
    return sheet


def _evenly(metadata: Path, count: int) -> list[dict[str, Any]]:
    chosen = {index * count // min(count, _ROWS) for index in range(min(count, _ROWS))}
    with metadata.open("rb") as lines:
        return [json.loads(line) for number, line in enumerate(lines) if number in chosen]


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, high: int) -> None:
    """Draw `text` in lines as wide as the caption's column, cut off after `high` pixels."""
    lines = [""]
    for word in text[:_LEGIBLE].split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _CAPTION or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    step = round(font.size * 1.3)
    room = max(1, high // step)
    for number, line in enumerate(lines[:room]):
        more = " …" if number == room - 1 < len(lines) - 1 else ""
        while font.getlength(line + more) > _CAPTION:
            line = line[:-1]
        line += more
        draw.text((at[0], at[1] + number * step), line, _INK, font)
