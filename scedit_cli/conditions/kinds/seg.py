"""Semantic segmentation, a colour for each class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import classes_to_picture


def scene_segmentation(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Of scenes of the embedded world, by its reader: sky, floor and the four shapes, in that world's palette."""
    return lambda pictures: [Image.fromarray(classes_to_picture(reading.segmentation)) for reading in read(pictures)]


KIND = Kind("seg", (Annotator("seg", "scene", "scedit", scene_segmentation),), labels=True)
