"""Colours: differences by place, and shares of the whole image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure

_LEVELS = 8  # per channel of a histogram


def delta_e(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean CIEDE2000 colour difference (Sharma, Wu and Dalal, Color Research and Application 2005) of uint8
    sRGB (..., 3); 1 is just noticeable, 100 is black against white."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    return float(deltaE_ciede2000(rgb2lab(wanted), rgb2lab(found)).mean())


def histogram_intersection(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the share of pixels, uint8 (..., 3), with the same colour at any place, in 8³ colours (Swain and Ballard,
    IJCV 1991)."""
    shares = []
    for pixels in (found, wanted):
        level = pixels.reshape(-1, 3).astype(np.int64) * _LEVELS // 256
        colour = level @ np.array((_LEVELS**2, _LEVELS, 1))
        shares.append(np.bincount(colour, minlength=_LEVELS**3) / len(level))
    return float(np.minimum(*shares).sum())


def _histogram(found: Image.Image, wanted: Image.Image) -> Figures:
    return {"intersection": histogram_intersection(*(np.asarray(p.convert("RGB")) for p in (found, wanted)))}


COLOURS = Measure(_histogram, lambda figures: figures["intersection"], annotates=False)
