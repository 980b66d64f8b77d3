"""Surface normals of the embedded world's scenes: the angle between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import picture_to_normals


def normal_agreement(pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> list[float]:
    """1 - mean angle / 180° between the normals (the angular error of Fouhey, Gupta and Hebert, ICCV 2013); where just
    one of the two has a surface the angle counts as 90°, where neither has as 0°."""
    scores = []
    for reading, condition in zip(read(pictures), conditions, strict=True):
        wanted = picture_to_normals(np.asarray(condition))
        cosine = np.clip((reading.normals * wanted).sum(-1), -1, 1)
        angle = np.where(reading.normals.any(-1) | wanted.any(-1), np.arccos(cosine), 0)
        scores.append(float(1 - angle.mean() / np.pi))
    return scores
