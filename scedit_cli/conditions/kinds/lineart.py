"""Line drawings of photographs (informative drawings, Chan, Durand and Isola, CVPR 2022)."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.detectors import Detection, detected, detector
from scedit_cli.conditions.looks import SOFT_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make
from scedit_cli.conditions.weights import filled, state_of

FINE, COARSE = "lllyasviel/Annotators:sk_model.pth", "lllyasviel/Annotators:sk_model2.pth"


class Drawing(Detection):
    """`coarse` draws fewer lines."""

    coarse: bool = False


def drawing(parameters: Drawing, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws white lines on black, in mode RGB."""
    detect = _detector(COARSE if parameters.coarse else FINE, weights, device)
    return detected(partial(detect, coarse=parameters.coarse), parameters.resolution)


@lru_cache(maxsize=2)
def _detector(place: str, weights: Path | None, device: str) -> Any:
    """Load the detector with one of its two networks, the only one that it runs."""
    module = detector("lineart")
    network = filled(module.Generator(3, 1, 3), state_of(place, weights), place, device)
    return module.LineartDetector(network, network)


KIND = Kind(
    "lineart",
    (Annotator("lineart", "lineart", "controlnet_aux", drawing, (FINE, COARSE), "MIT", parameters=Drawing),),
    EDGES,
    look=SOFT_LINES,
)
