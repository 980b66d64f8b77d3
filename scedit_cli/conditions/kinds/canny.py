"""Edges by Canny's detector (IEEE PAMI 1986), OpenCV's, through controlnet_aux."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from PIL import Image

from scedit_cli.conditions.kind import Kind, Pictures


def edges(pictures: Pictures, low: float = 100.0, high: float = 200.0) -> list[Image.Image]:
    """White edges on black, mode L, of each picture as it is: no blur, no resize. `low` and `high` are the hysteresis
    thresholds on the gradient, in steps of 8-bit intensity."""
    detector = _detector()
    return [detector(picture, low_threshold=low, high_threshold=high).convert("L") for picture in pictures]


def edge_f1(pictures: Pictures, conditions: Pictures) -> list[float]:
    """F1 of edge pixels, where an edge counts as found within one pixel of it (the boundary measure of Martin et al.,
    IEEE PAMI 2004, without its one-to-one matching). Two empty pictures agree fully."""
    return [
        _f1(np.asarray(found) > 127, np.asarray(wanted.convert("L")) > 127)
        for found, wanted in zip(edges(pictures), conditions, strict=True)
    ]


def _f1(found: np.ndarray, wanted: np.ndarray) -> float:
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = _widened(wanted)[found].mean()
    recall = _widened(found)[wanted].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _widened(mask: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


@cache
def _detector():
    """controlnet_aux's CannyDetector, alone.

    Importing controlnet_aux imports every one of its models, with a page of warnings, and its `util` would import
    torch and round the picture's sides to multiples of 64. So the one module is loaded as part of a private package
    whose `util` has the two helpers that it calls: one that keeps the size, and one that adds missing channels.
    """
    package = ModuleType("_scedit_controlnet_aux")
    package.__path__ = find_spec("controlnet_aux").submodule_search_locations
    util = ModuleType(f"{package.__name__}.util")
    util.resize_image = lambda picture, resolution: picture
    util.HWC3 = lambda picture: picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    sys.modules.update({package.__name__: package, util.__name__: util})
    return import_module(f"{package.__name__}.canny").CannyDetector()


KIND = Kind("canny", annotators={"controlnet_aux": edges}, consistency=edge_f1)
