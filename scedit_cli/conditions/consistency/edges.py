"""Edges: F1 with a tolerance, and structural similarity."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.conditions.consistency.structure import similarity


def boundary_f1(found: np.ndarray, wanted: np.ndarray, tolerance: int = 1) -> float:
    """Return the F1 score of edge pixels, bool (H, W). An edge pixel matches any within `tolerance` pixels, diagonals
    included (the boundary measure of Martin, Fowlkes and Malik, IEEE PAMI 2004, without its one-to-one matching). Two
    images without edges score 1."""
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = _widened(wanted, tolerance)[found].mean()
    recall = _widened(found, tolerance)[wanted].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _figures(found: Image.Image, wanted: Image.Image) -> Figures:
    found, wanted = (np.asarray(image.convert("L")) for image in (found, wanted))
    return {"f1": boundary_f1(found > 127, wanted > 127), "ssim": similarity(found, wanted)}


def _widened(mask: np.ndarray, by: int) -> np.ndarray:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


EDGES = Measure(_figures, lambda figures: figures["f1"])
