"""Soft edges by pixel difference networks (PiDiNet, Su et al., ICCV 2021)."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.detectors import detected, detector
from scedit_cli.conditions.kinds.hed import SoftEdges
from scedit_cli.conditions.looks import SOFT_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make
from scedit_cli.conditions.weights import filled, state_of

WEIGHTS = "lllyasviel/Annotators:table5_pidinet.pth"
LICENCE = "PiDiNet's own, academic use only"


class Differences(SoftEdges):
    """`filter` cuts the edges at one half, to black and white."""

    filter: bool = False


def soft_edges(parameters: Differences, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws soft edges, white to gray on black, in mode RGB."""
    detect = partial(pidinet_detector(weights, device), safe=parameters.safe, apply_filter=parameters.filter)
    return detected(detect, parameters.resolution, binary=parameters.filter)


@lru_cache(maxsize=1)
def pidinet_detector(weights: Path | None, device: str) -> Any:
    """Load controlnet_aux's PidiNetDetector, once."""
    module = detector("pidi")
    state = state_of(WEIGHTS, weights)
    return module.PidiNetDetector(filled(module.pidinet(), state.get("state_dict", state), WEIGHTS, device))


KIND = Kind(
    "pidinet",
    (Annotator("pidinet", "pidinet", "controlnet_aux", soft_edges, (WEIGHTS,), LICENCE, False, Differences),),
    EDGES,
    look=SOFT_LINES,
)
