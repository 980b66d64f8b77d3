"""Surface normals in camera axes: -1 is 0, and 1 is 255."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from scedit_cli.conditions.consistency.normal import NORMALS
from scedit_cli.conditions.detectors import Detection, detected, detector
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.scene_reading import read
from scedit_cli.conditions.weights import filled, state_of
from scedit_cli.scenes.encodings import normals_to_image

WEIGHTS = "lllyasviel/Annotators:scannet.pt"


def photo_normals(parameters: Detection, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that estimates the normals of photographs (Bae, Budvytis and Cipolla, ICCV 2021); R, G and B
    are the axes left, up and towards the viewer."""
    return detected(_detector(weights, device), parameters.resolution)


@lru_cache(maxsize=1)
def _detector(weights: Path | None, device: str) -> Any:
    module = detector("normalbae")
    state = state_of(WEIGHTS, weights)
    sizes = SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
    return module.NormalBaeDetector(filled(module.NNET(sizes), state.get("model", state), WEIGHTS, device))


def scene_normals(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws the normals of embedded scenes, by their reader; R, G and B are the axes right, up
    and towards the viewer, the sky is mid-gray."""
    return lambda images: [Image.fromarray(normals_to_image(reading.normals)) for reading in read(images)]


KIND = Kind(
    "normal",
    (
        Annotator("normal", "bae", "controlnet_aux", photo_normals, (WEIGHTS,), "MIT", parameters=Detection),
        Annotator("normal", "scene", "scedit", scene_normals),
    ),
    NORMALS,
)
