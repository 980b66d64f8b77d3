"""Edges by Canny's detector (IEEE PAMI 1986)."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.looks import HARD_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters

_LARGE = 2**24  # pixels
_STRIP = 128  # rows at a time


class Thresholds(Parameters):
    """`low` and `high` thresholds of the hysteresis on the gradient, in steps of 8-bit intensity."""

    low: float = Field(100.0, ge=0)
    high: float = Field(200.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, above high, which is {self.high:g}")
        return self


def edges(parameters: Thresholds, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws white edges on black, in mode L, of images as they are: without blur or resize."""
    return lambda images: [Image.fromarray(_canny(np.asarray(each), parameters)) for each in images]


def _canny(image: np.ndarray, parameters: Thresholds) -> np.ndarray:
    """Return the edges (H, W) of an image (H, W, 3). OpenCV keeps all channels' gradients, twelve bytes per pixel.
    For a large image it gets only the steepest gradient at each pixel, the one that it would use."""
    import cv2

    if image.shape[0] * image.shape[1] <= _LARGE:
        return cv2.Canny(image, parameters.low, parameters.high)
    along = np.empty((2, *image.shape[:2]), np.int16)  # x, y
    for top in range(0, len(image), _STRIP):
        above = min(top, 1)  # one more row on both sides, where the image has one
        strip = image[top - above : top + _STRIP + 1]
        dx, dy = (
            cv2.Sobel(strip, cv2.CV_16S, *order, borderType=cv2.BORDER_REPLICATE)[above : above + _STRIP]
            for order in ((1, 0), (0, 1))
        )
        steepest = (np.abs(dx) + np.abs(dy)).argmax(-1, keepdims=True)
        for gradient, found in zip((dx, dy), along, strict=True):
            found[top : top + _STRIP] = np.take_along_axis(gradient, steepest, -1)[..., 0]
    return cv2.Canny(*along, parameters.low, parameters.high)


KIND = Kind("canny", (Annotator("canny", "opencv", "OpenCV", edges, parameters=Thresholds),), EDGES, look=HARD_LINES)
