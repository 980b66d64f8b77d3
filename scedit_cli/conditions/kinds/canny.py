"""Edges by Canny's detector (IEEE PAMI 1986)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters

_LARGE = 2**24  # pixels
_STRIP = 128  # rows at a time


class Thresholds(Parameters):
    """Of the hysteresis on the gradient, in steps of 8-bit intensity."""

    low: float = Field(100.0, ge=0)
    high: float = Field(200.0, ge=0)


def edges(parameters: Thresholds, weights: Path | None = None, device: str = "cpu") -> Make:
    """White edges on black, mode L, of each picture as it is: no blur, no resize."""
    return lambda pictures: [Image.fromarray(_canny(np.asarray(each), parameters)) for each in pictures]


def _canny(picture: np.ndarray, parameters: Thresholds) -> np.ndarray:
    """(H, W) of (H, W, 3). OpenCV keeps the gradients of all channels, twelve bytes per pixel. Of a large picture it is
    given those of one, the steepest at each pixel, which it would look at."""
    import cv2

    if picture.shape[0] * picture.shape[1] <= _LARGE:
        return cv2.Canny(picture, parameters.low, parameters.high)
    along = np.empty((2, *picture.shape[:2]), np.int16)  # x, y
    for top in range(0, len(picture), _STRIP):
        above = min(top, 1)  # a row more on both sides, where the picture goes on
        strip = picture[top - above : top + _STRIP + 1]
        dx, dy = (
            cv2.Sobel(strip, cv2.CV_16S, *order, borderType=cv2.BORDER_REPLICATE)[above : above + _STRIP]
            for order in ((1, 0), (0, 1))
        )
        steepest = (np.abs(dx) + np.abs(dy)).argmax(-1, keepdims=True)
        for gradient, found in zip((dx, dy), along, strict=True):
            found[top : top + _STRIP] = np.take_along_axis(gradient, steepest, -1)[..., 0]
    return cv2.Canny(*along, parameters.low, parameters.high)


KIND = Kind("canny", (Annotator("canny", "opencv", "OpenCV", edges, parameters=Thresholds),), EDGES)
