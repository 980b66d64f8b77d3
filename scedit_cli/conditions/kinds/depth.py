"""Depth, near is white."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import depth_to_picture


def scene_depth(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Mode L: 255 at 2 m falling linearly to 1 at 16 m and beyond, 0 for the sky."""
    return lambda pictures: [Image.fromarray(depth_to_picture(reading.depth)) for reading in read(pictures)]


KIND = Kind("depth", (Annotator("depth", "scene", "scedit", scene_depth),))
