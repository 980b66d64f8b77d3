"""The gradient magnitude of the blurred image: soft edges by arithmetic alone, of texture and shading too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.structure import LIKENESS
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters


class Slope(Parameters):
    """`sigma` of the Gaussian in pixels, and the `slope` in 8-bit levels per pixel that is drawn at 0.76 of white; a
    larger one draws fainter edges."""

    sigma: float = Field(1.0, ge=0.1, le=256)
    slope: float = Field(16.0, ge=0.1, le=256)


def scharr(parameters: Slope, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws gradient magnitudes, white on black, in mode L: each pixel's is the largest of its
    channels, and tanh brings it into the range, so that strong edges do not hide the weak ones."""
    return lambda images: [Image.fromarray(_magnitude(np.asarray(each), parameters)) for each in images]


def _magnitude(image: np.ndarray, parameters: Slope) -> np.ndarray:
    """Return the magnitudes (H, W) of an image (H, W, 3), one channel at a time, which takes less memory."""
    import cv2

    largest = np.zeros(image.shape[:2], np.float32)
    for channel in np.moveaxis(image, -1, 0):
        smooth = cv2.GaussianBlur(channel.astype(np.float32), (0, 0), parameters.sigma)
        # OpenCV's Scharr sums 32 times the slope.
        along = (cv2.Scharr(smooth, cv2.CV_32F, *order, scale=1 / 32) for order in ((1, 0), (0, 1)))
        np.maximum(largest, cv2.magnitude(*along), out=largest)
    largest /= parameters.slope
    np.tanh(largest, out=largest)
    largest *= 255
    return np.rint(largest, out=largest).astype(np.uint8)


KIND = Kind("gradient", (Annotator("gradient", "scharr", "OpenCV", scharr, parameters=Slope),), LIKENESS)
