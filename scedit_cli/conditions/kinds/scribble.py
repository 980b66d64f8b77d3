"""Scribbles: soft edges, thinned to lines and redrawn with a thick pen, as ControlNet makes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.detectors import detected
from scedit_cli.conditions.kinds import hed, pidinet
from scedit_cli.conditions.kinds.hed import SoftEdges
from scedit_cli.conditions.looks import HARD_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make


def by_hed(parameters: SoftEdges, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws scribbles from HED's edges, white lines on black, in mode RGB."""
    detect = partial(hed.hed_detector(weights, device), safe=parameters.safe, scribble=True)
    return detected(detect, parameters.resolution, binary=True)


def by_pidinet(parameters: SoftEdges, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws scribbles from PiDiNet's edges, white lines on black, in mode RGB."""
    detect = partial(pidinet.pidinet_detector(weights, device), safe=parameters.safe, scribble=True)
    return detected(detect, parameters.resolution, binary=True)


KIND = Kind(
    "scribble",
    (
        Annotator("scribble", "hed", "controlnet_aux", by_hed, (hed.WEIGHTS,), parameters=SoftEdges),
        Annotator(
            "scribble", "pidinet", "controlnet_aux", by_pidinet, (pidinet.WEIGHTS,), pidinet.LICENCE, False, SoftEdges
        ),
    ),
    EDGES,
    look=HARD_LINES,
)
