"""Line drawings of illustrations (Anime2Sketch, Xiang et al., arXiv 2104.05703)."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scedit_cli.conditions.consistency.edges import EDGES
from scedit_cli.conditions.detectors import Detection, detected, detector
from scedit_cli.conditions.looks import SOFT_LINES
from scedit_cli.conditions.registry import Annotator, Kind, Make
from scedit_cli.conditions.weights import filled, state_of

WEIGHTS = "lllyasviel/Annotators:netG.pth"


def drawing(parameters: Detection, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws white lines on black, in mode RGB."""
    return detected(_detector(weights, device), parameters.resolution)


@lru_cache(maxsize=1)
def _detector(weights: Path | None, device: str) -> Any:
    from torch.nn import InstanceNorm2d

    module = detector("lineart_anime")
    norm = partial(InstanceNorm2d, affine=False, track_running_stats=False)
    network = module.UnetGenerator(3, 1, 8, 64, norm_layer=norm, use_dropout=False)
    return module.LineartAnimeDetector(filled(network, state_of(WEIGHTS, weights), WEIGHTS, device))


KIND = Kind(
    "lineart-anime",
    (Annotator("lineart-anime", "anime2sketch", "controlnet_aux", drawing, (WEIGHTS,), "MIT", parameters=Detection),),
    EDGES,
    look=SOFT_LINES,
)
