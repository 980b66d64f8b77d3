"""A coarse palette: where which colour is, without shapes (as T2I-Adapter's spatial palette, arXiv 2302.08453)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.kind import Kind, Pictures

CELLS = 8  # along the shorter side


def palette(pictures: Pictures, cells: float = CELLS) -> list[Image.Image]:
    """Each picture as `cells` square cells along its shorter side, each cell its area's mean sRGB colour."""
    return [_coarse(picture, round(cells)).resize(picture.size, Image.Resampling.NEAREST) for picture in pictures]


def color_agreement(pictures: Pictures, conditions: Pictures) -> list[float]:
    """1 - mean ΔE / 100 over the cells of both palettes, ΔE being CIEDE2000 (Sharma, Wu and Dalal, Color Research and
    Application 2005)."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    scores = []
    for picture, condition in zip(pictures, conditions, strict=True):
        found, wanted = (rgb2lab(np.asarray(_coarse(image, CELLS))) for image in (picture, condition))
        scores.append(float(np.clip(1 - deltaE_ciede2000(wanted, found).mean() / 100, 0, 1)))
    return scores


def _coarse(picture: Image.Image, cells: int) -> Image.Image:
    shorter = min(picture.size)
    cells = min(max(cells, 1), shorter)
    return picture.resize([round(side * cells / shorter) for side in picture.size], Image.Resampling.BOX)


KIND = Kind("color", annotators={"palette": palette}, consistency=color_agreement)
