"""Surface normals, compared by the angle between them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.scenes.encodings import image_to_normals


def mean_angle(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean angle in degrees between normals (H, W, 3), unit or 0 (the angular error of Fouhey, Gupta and
    Hebert, ICCV 2013). A pixel with a normal (not 0) in just one of the two counts as 90, in neither as 0."""
    cosine = np.clip((found * wanted).sum(-1), -1, 1)
    return float(np.degrees(np.where(found.any(-1) | wanted.any(-1), np.arccos(cosine), 0)).mean())


def _figures(found: Image.Image, wanted: Image.Image) -> Figures:
    return {"angle": mean_angle(*(image_to_normals(np.asarray(p.convert("RGB"))) for p in (found, wanted)))}


NORMALS = Measure(_figures, lambda figures: 1 - figures["angle"] / 180)
