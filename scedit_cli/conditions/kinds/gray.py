"""Grayscale images, for colourisation."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.conditions.consistency.structure import LIKENESS
from scedit_cli.conditions.looks import Look
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters


def gray(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that makes images gray, in mode L: the luma of ITU-R BT.601."""
    return lambda images: [image.convert("L") for image in images]


KIND = Kind("gray", (Annotator("gray", "luma", "Pillow", gray, licence="MIT-CMU"),), LIKENESS, look=Look(gray=True))
