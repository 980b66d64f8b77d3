"""Segmentations, compared by intersection over union."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from PIL import Image

from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.conditions.detectors import detector
from scedit_cli.scenes.encodings import SEG_PALETTE


def mean_iou(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean intersection over union (Long, Shelhamer and Darrell, CVPR 2015) of the classes present in
    either; both are integer labels of one shape."""
    classes, labels = np.unique(np.stack((found, wanted)), return_inverse=True)
    found, wanted = labels.reshape(2, -1)
    both = np.bincount(found[found == wanted], minlength=len(classes))
    either = np.bincount(found, minlength=len(classes)) + np.bincount(wanted, minlength=len(classes)) - both
    return float((both / either).mean())


def _figures(palette: Callable[[], np.ndarray], found: Image.Image, wanted: Image.Image) -> Figures:
    """Compare images by class. A pixel has the class of the nearest colour, since resizing and JPEG change colours."""
    found, wanted = (nearest_colours(np.asarray(image.convert("RGB")), palette()) for image in (found, wanted))
    return {"mean_iou": mean_iou(found, wanted), "pixel_accuracy": float((found == wanted).mean())}


def nearest_colours(image: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the places (H, W) of the pixels' nearest colours in `palette`; each distinct colour is looked up once."""
    packed = image.astype(np.int32) @ np.array((65536, 256, 1), np.int32)
    colours, place = np.unique(packed, return_inverse=True)
    unpacked = np.stack((colours >> 16, colours >> 8 & 255, colours & 255), -1)
    distance = np.square(unpacked[:, None] - palette.astype(np.int32)).sum(-1)
    return distance.argmin(-1)[place].reshape(packed.shape)


@cache
def _ade20k() -> np.ndarray:
    return np.array([(0, 0, 0), *detector("util").ade_palette()], np.uint8)


ADE20K = Measure(partial(_figures, _ade20k), lambda figures: figures["mean_iou"])
SCENE_CLASSES = Measure(partial(_figures, lambda: SEG_PALETTE), lambda figures: figures["mean_iou"])
