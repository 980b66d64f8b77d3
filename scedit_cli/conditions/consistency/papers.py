"""The measures of ControlNet++ (Li et al., ECCV 2024) and ControlAR (Li et al., ICLR 2025), without tolerance."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.conditions.detectors import detector
from scedit_cli.scenes.encodings import SEG_PALETTE
from scedit_cli.utils.errors import SceditError

_LEAST_SIDE = 161  # pixels: MS-SSIM halves an image four times, and its window is 11 pixels wide


def exact_f1(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the F1 score of two masks, bool (H, W), pixel by pixel; 0 where both are empty, as in torchmetrics."""
    both, either = (found & wanted).sum(), found.sum() + wanted.sum()
    return float(2 * both / either) if either else 0.0


def multiscale_ssim(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the multi-scale structural similarity of uint8 (H, W) images by torchmetrics (Wang, Simoncelli and Bovik,
    Asilomar 2003).

    Raises:
        SceditError: the images are too small for its five scales.
    """
    if min(wanted.shape) < _LEAST_SIDE:
        raise SceditError(
            f"images of {wanted.shape[1]}x{wanted.shape[0]} pixels are too small for multi-scale SSIM",
            hint=f"evaluate images of at least {_LEAST_SIDE} pixels on each side, or by the protocol scedit",
        )
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    pair = (torch.from_numpy(each.copy())[None, None].float() / 255 for each in (found, wanted))
    return multiscale_structural_similarity_index_measure(*pair, data_range=1.0).item()


def rmse(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the root of the mean squared difference of two images with levels from 0 to 255."""
    return float(np.sqrt(np.square(found.astype(np.float64) - wanted).mean()))


def class_counts(found: np.ndarray, wanted: np.ndarray, classes: int) -> np.ndarray:
    """Return (3, classes) pixels of two label images with labels from 1, where 0 is no class: those of each class
    in both, in `found`, and in `wanted`. Pixels without a class in `wanted` do not count."""
    known = wanted > 0
    found, wanted = found[known], wanted[known]
    counts = [np.bincount(labels, minlength=classes + 1)[1:] for labels in (found[found == wanted], found, wanted)]
    return np.stack(counts)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Return the mean intersection over union (...,) over the classes present in either, of summed `class_counts` or
    their means (..., 3, classes); NaN without any class."""
    both, found, wanted = np.moveaxis(counts, -2, 0).astype(np.float64)
    either = found + wanted - both
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(either > 0, both / either, 0.0).sum(-1) / (either > 0).sum(-1)


def _masks(found: Image.Image, wanted: Image.Image) -> Figures:
    found, wanted = (_levels(image) > 127 for image in (found, wanted))
    return {"f1": exact_f1(found, wanted)}


def _lines(found: Image.Image, wanted: Image.Image) -> Figures:
    return {"ms_ssim": multiscale_ssim(*(_levels(image).astype(np.uint8) for image in (found, wanted)))}


def _distances(found: Image.Image, wanted: Image.Image) -> Figures:
    return {"rmse": rmse(*map(_levels, (found, wanted)))}


def _classes(palette: np.ndarray, found: Image.Image, wanted: Image.Image) -> Figures:
    from scedit_cli.conditions.consistency.seg import nearest_colours

    labels = (nearest_colours(np.asarray(image.convert("RGB")), palette) for image in (found, wanted))
    counts = class_counts(*labels, len(palette) - 1)
    return {"mean_iou": float(np.nan_to_num(mean_iou(counts))), "counts": counts.flatten().tolist()}


def _levels(image: Image.Image) -> np.ndarray:
    """Return gray levels (H, W) from 0 to 255; those of 16 bits are not rounded."""
    if image.mode.startswith("I"):
        return np.asarray(image, np.float64) / 257
    return np.asarray(image.convert("L"))


@cache
def seg_measure(annotator: str) -> Measure:
    """Return the measure of segmentations: ADE20K's 150 classes without the background, or for the annotator "scene"
    the classes of the embedded world without the sky."""
    if annotator == "scene":
        palette = SEG_PALETTE
    else:
        palette = np.array([(0, 0, 0), *detector("util").ade_palette()], np.uint8)
    return Measure(lambda found, wanted: _classes(palette, found, wanted), lambda figures: figures["mean_iou"])


EXACT_EDGES = Measure(_masks, lambda figures: figures["f1"])
LINES = Measure(_lines, lambda figures: figures["ms_ssim"])
LEVELS = Measure(_distances, lambda figures: 1 - figures["rmse"] / 255)
