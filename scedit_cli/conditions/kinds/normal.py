"""Surface normals in camera axes: of scenes of the embedded world, by its reader."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.kind import Kind, Pictures
from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import normals_to_picture, picture_to_normals


def scene_normals(pictures: Pictures) -> list[Image.Image]:
    """RGB are the axes right, up and towards the viewer, -1 at 0 and 1 at 255; the sky is mid-gray."""
    return [Image.fromarray(normals_to_picture(reading.normals)) for reading in read(pictures)]


def normal_agreement(pictures: Pictures, conditions: Pictures) -> list[float]:
    """1 - mean angle / 180° between the normals (the angular error of Fouhey, Gupta and Hebert, ICCV 2013); where just
    one of the two has a surface the angle counts as 90°, where neither has as 0°."""
    scores = []
    for reading, condition in zip(read(pictures), conditions, strict=True):
        wanted = picture_to_normals(np.asarray(condition))
        cosine = np.clip((reading.normals * wanted).sum(-1), -1, 1)
        angle = np.where(reading.normals.any(-1) | wanted.any(-1), np.arccos(cosine), 0)
        scores.append(float(1 - angle.mean() / np.pi))
    return scores


KIND = Kind("normal", annotators={"scene": scene_normals}, consistency=normal_agreement)
