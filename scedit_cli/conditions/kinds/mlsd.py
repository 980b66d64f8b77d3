"""Straight lines (M-LSD, Gu et al., AAAI 2022)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.detectors import Detection, detected, detector
from scedit_cli.conditions.looks import HARD_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make
from scedit_cli.conditions.weights import filled, state_of

WEIGHTS = "lllyasviel/Annotators:mlsd_large_512_fp32.pth"


class Lines(Detection):
    """`score` is the least confidence of a line, `distance` its least length in pixels of the network's half-sized
    map."""

    score: float = Field(0.1, ge=0, le=1)
    distance: float = Field(0.1, ge=0)


def lines(parameters: Lines, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws straight lines, white on black and one pixel wide at the network's resolution, in
    mode RGB."""
    network = _network(weights, device)

    def detect(image: np.ndarray, detect_resolution: int, **_: Any) -> np.ndarray:
        import cv2
        import torch

        # M-LSD's own detector is not used: it returns a black image after any error, even when memory runs out.
        seen = detector("util").resize_image(image, detect_resolution)
        drawn = np.zeros_like(seen)
        with torch.inference_mode():
            for line in _lines(seen, network, parameters):
                start, end = line[:2].astype(int).tolist(), line[2:].astype(int).tolist()
                cv2.line(drawn, start, end, (255, 255, 255), 1)
        return drawn

    return detected(detect, parameters.resolution)


def _lines(image: np.ndarray, network: Any, parameters: Lines) -> np.ndarray:
    """Return the lines (N, 4): x and y of both ends."""
    try:
        return detector("mlsd.utils").pred_lines(
            image, network, image.shape[:2], parameters.score, parameters.distance
        )
    except IndexError:  # raised where there is no line
        return np.zeros((0, 4))


@lru_cache(maxsize=1)
def _network(weights: Path | None, device: str) -> Any:
    network = detector("mlsd.models.mbv2_mlsd_large").MobileV2_MLSD_Large()
    return filled(network, state_of(WEIGHTS, weights), WEIGHTS, device)


KIND = Kind(
    "mlsd",
    (Annotator("mlsd", "mlsd", "controlnet_aux", lines, (WEIGHTS,), parameters=Lines),),
    EDGES,
    look=HARD_LINES,
)
