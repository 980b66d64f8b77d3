"""Edges: F1 with a tolerance of one pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from scedit_cli.conditions.registry import find


def edge_f1(pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> list[float]:
    """F1 of edge pixels, where an edge counts as found within one pixel of it (the boundary measure of Martin et al.,
    IEEE PAMI 2004, without its one-to-one matching). Two empty pictures agree fully."""
    canny = find("canny").annotator()
    edges = canny.load(canny.settings(), None, "cpu")
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
