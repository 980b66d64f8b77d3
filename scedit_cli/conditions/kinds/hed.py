"""Soft edges by holistically-nested edge detection (Xie and Tu, ICCV 2015), as ControlNet retrained it."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.detectors import Detection, detected, detector
from scedit_cli.conditions.looks import SOFT_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make
from scedit_cli.conditions.weights import filled, state_of

WEIGHTS = "lllyasviel/Annotators:ControlNetHED.pth"


class SoftEdges(Detection):
    """`safe` leaves three grays, so that the edges do not contain the image's shading."""

    safe: bool = False


def soft_edges(parameters: SoftEdges, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws soft edges, white to gray on black, in mode RGB."""
    return detected(partial(hed_detector(weights, device), safe=parameters.safe), parameters.resolution)


@lru_cache(maxsize=1)
def hed_detector(weights: Path | None, device: str) -> Any:
    """Load controlnet_aux's HEDdetector, once."""
    module = detector("hed")
    return module.HEDdetector(filled(module.ControlNetHED_Apache2(), state_of(WEIGHTS, weights), WEIGHTS, device))


KIND = Kind(
    "hed",
    (Annotator("hed", "hed", "controlnet_aux", soft_edges, (WEIGHTS,), parameters=SoftEdges),),
    EDGES,
    look=SOFT_LINES,
)
