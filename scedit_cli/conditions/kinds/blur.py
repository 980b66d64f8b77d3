"""Blurred images, for sharpening."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.structure import LIKENESS
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters


class Focus(Parameters):
    """`sigma` of the Gaussian, in pixels."""

    sigma: float = Field(4.0, gt=0, le=256)


def blur(parameters: Focus, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that blurs images, in mode RGB."""
    import cv2

    sigma = parameters.sigma
    return lambda images: [Image.fromarray(cv2.GaussianBlur(np.asarray(each), (0, 0), sigma)) for each in images]


KIND = Kind("blur", (Annotator("blur", "gaussian", "OpenCV", blur, parameters=Focus),), LIKENESS)
