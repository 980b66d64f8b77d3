"""Depth: metric for the embedded world, and relative, of which only order and proportions are known."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.scenes.encodings import DEPTH_FAR, DEPTH_NEAR, image_to_depth


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean of |d - d*| / d* over all pixels, d = `found` and d* = `wanted` in metres (the absolute relative
    difference of Eigen, Puhrsch and Fergus, NeurIPS 2014)."""
    return float((np.abs(found - wanted) / wanted).mean())


def aligned(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return s·found + t, with s and t by least squares against `wanted` (Ranftl et al., IEEE PAMI 2022, eq. 4)."""
    centred = found - found.mean()
    variance = np.square(centred).mean()
    scale = (centred * (wanted - wanted.mean())).mean() / variance if variance > 0 else 0.0
    return scale * centred + wanted.mean()


def aligned_rmse(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the root of the mean squared error after the best scale and shift, in the unit of `wanted`."""
    return float(np.sqrt(np.square(aligned(found, wanted) - wanted).mean()))


def rank_correlation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return Spearman's ρ in [-1, 1], which compares the order of depths and ignores scale (above 0) and shift. It is 1
    for two constant images, and 0 if just one is constant."""
    from scipy.stats import spearmanr

    uneven = found.max() > found.min(), wanted.max() > wanted.min()
    return float(spearmanr(found, wanted, axis=None).statistic) if all(uneven) else float(not any(uneven))


def _relative(found: Image.Image, wanted: Image.Image) -> Figures:
    found, wanted = map(_shares, (found, wanted))
    return {"rank_correlation": rank_correlation(found, wanted), "rmse": aligned_rmse(found, wanted)}


def _metric(found: Image.Image, wanted: Image.Image) -> Figures:
    metres = [
        np.clip(image_to_depth(np.asarray(image.convert("L"))), DEPTH_NEAR, DEPTH_FAR)
        for image in (found, wanted)
    ]
    return {"relative_error": relative_error(*metres), **_relative(found, wanted)}


def _shares(image: Image.Image) -> np.ndarray:
    """Return an image of 8 or 16 bits as (H, W) in [0, 1]."""
    deep = image.mode.startswith("I")
    return np.asarray(image if deep else image.convert("L"), np.float64) / (65535 if deep else 255)


RELATIVE_DEPTH = Measure(_relative, lambda figures: max(figures["rank_correlation"], 0.0))
SCENE_DEPTH = Measure(_metric, lambda figures: min(max(1 - figures["relative_error"], 0.0), 1.0))
