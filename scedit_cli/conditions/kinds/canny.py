"""Edges by Canny's detector (IEEE PAMI 1986)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters


class Thresholds(Parameters):
    """Of the hysteresis on the gradient, in steps of 8-bit intensity."""

    low: float = Field(100.0, ge=0)
    high: float = Field(200.0, ge=0)


def edges(parameters: Thresholds, weights: Path | None = None, device: str = "cpu") -> Make:
    """White edges on black, mode L, of each picture as it is: no blur, no resize."""
    import cv2

    low, high = parameters.low, parameters.high
    return lambda pictures: [Image.fromarray(cv2.Canny(np.asarray(picture), low, high)) for picture in pictures]


KIND = Kind("canny", (Annotator("canny", "opencv", "OpenCV", edges, parameters=Thresholds),), EDGES)
