"""Surface normals in camera axes: RGB are right, up and towards the viewer, -1 at 0 and 1 at 255."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import normals_to_picture


def scene_normals(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Of scenes of the embedded world, by its reader; the sky is mid-gray."""
    return lambda pictures: [Image.fromarray(normals_to_picture(reading.normals)) for reading in read(pictures)]


KIND = Kind("normal", (Annotator("normal", "scene", "scedit", scene_normals),))
