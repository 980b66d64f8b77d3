"""Palettes: the colour difference of their cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from scedit_cli.conditions.kinds.color import CELLS, coarse


def color_agreement(pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> list[float]:
    """1 - mean ΔE / 100 over the cells of both palettes, ΔE being CIEDE2000 (Sharma, Wu and Dalal, Color Research and
    Application 2005)."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    scores = []
    for picture, condition in zip(pictures, conditions, strict=True):
        found, wanted = (rgb2lab(np.asarray(coarse(image, CELLS))) for image in (picture, condition))
        scores.append(float(np.clip(1 - deltaE_ciede2000(wanted, found).mean() / 100, 0, 1)))
    return scores
