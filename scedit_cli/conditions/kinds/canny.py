"""Edges by Canny's detector (IEEE PAMI 1986), OpenCV's, through controlnet_aux."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters


class Thresholds(Parameters):
    """Of the hysteresis on the gradient, in steps of 8-bit intensity."""

    low: float = Field(100.0, ge=0)
    high: float = Field(200.0, ge=0)


def edges(parameters: Thresholds, weights: Path | None = None, device: str = "cpu") -> Make:
    """White edges on black, mode L, of each picture as it is: no blur, no resize."""
    detect = detector("canny").CannyDetector()
    low, high = parameters.low, parameters.high
    return lambda pictures: [detect(each, low_threshold=low, high_threshold=high).convert("L") for each in pictures]


KIND = Kind("canny", (Annotator("canny", "opencv", "OpenCV by controlnet_aux", edges, parameters=Thresholds),))
