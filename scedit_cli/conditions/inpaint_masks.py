"""Holes in images, the regions in which an inpainting tuner learns to paint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Hole = Callable[[np.ndarray, float, float, np.random.Generator], np.ndarray]

_SEGMENTED = 128  # the shorter side in pixels at which an image is segmented


def with_hole(image: Image.Image, hole: np.ndarray) -> Image.Image:
    """Return the image as RGBA: black with alpha 0 in the hole (bool (H, W)), unchanged with alpha 255 elsewhere."""
    pixels = np.dstack((np.asarray(image), np.full(hole.shape, 255, np.uint8)))
    pixels[hole] = 0
    return Image.fromarray(pixels)


def brush(pixels: np.ndarray, least: float, most: float, rng: np.random.Generator) -> np.ndarray:
    """Draw wandering strokes of a round brush until they cover a share of the image drawn from [least, most] (free-form
    masks, Yu et al., ICCV 2019)."""
    import cv2

    high, wide = pixels.shape[:2]
    hole, share = np.zeros((high, wide), np.uint8), rng.uniform(least, most)
    side = min(high, wide)
    while hole.mean() < share:
        at, heading = rng.uniform((0, 0), (wide, high)), rng.uniform(0, 2 * np.pi)
        width = max(round(rng.uniform(0.02, 0.08) * side), 1)
        for _ in range(rng.integers(4, 12)):
            heading += rng.normal(0, 0.7)
            step = at + rng.uniform(0.05, 0.2) * side * np.array((np.cos(heading), np.sin(heading)))
            cv2.line(hole, at.astype(int).tolist(), step.astype(int).tolist(), 1, width)
            at = step
            if hole.mean() >= share or not (0 <= at[0] < wide and 0 <= at[1] < high):
                break
    return hole > 0


def box(pixels: np.ndarray, least: float, most: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a rectangle whose share of the image is drawn from [least, most], with an aspect ratio within a factor of 2
    of the image's where that fits."""
    high, wide = pixels.shape[:2]
    share, aspect = rng.uniform(least, most), np.exp(rng.uniform(-np.log(2), np.log(2)))
    across = np.clip(np.sqrt(share * aspect), share, 1)
    box_wide, box_high = max(round(across * wide), 1), max(round(share / across * high), 1)
    left, top = rng.integers(wide - box_wide + 1), rng.integers(high - box_high + 1)
    hole = np.zeros((high, wide), bool)
    hole[top : top + box_high, left : left + box_wide] = True
    return hole


def thing(pixels: np.ndarray, least: float, most: float, rng: np.random.Generator) -> np.ndarray:
    """Join neighbouring segments of the image (Felzenszwalb and Huttenlocher, IJCV 2004), so that the hole has the
    outline of an object in it. It takes a share in [least, most] of the image where the segments allow that."""
    import cv2
    from skimage.segmentation import felzenszwalb

    high, wide = pixels.shape[:2]
    scale = min(_SEGMENTED / min(high, wide), 1)
    small = cv2.resize(pixels, (max(round(wide * scale), 1), max(round(high * scale), 1)), interpolation=cv2.INTER_AREA)
    regions = felzenszwalb(small, scale=100, sigma=0.8, min_size=max(small.size // 600, 1))
    grown = [_grown(regions, rng.uniform(least, most), rng) for _ in range(4)]
    hole = next((each for each in grown if least <= each.mean() <= most), min(grown, key=np.mean))
    return cv2.resize(hole.astype(np.float32), (wide, high), interpolation=cv2.INTER_CUBIC) > 0.5


def _grown(regions: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random region, grown by adjacent regions until it covers `share`."""
    import cv2

    hole = regions == regions.flat[rng.integers(regions.size)]
    while hole.mean() < share:
        rim = cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)) > hole
        hole |= regions == rng.choice(regions[rim])
    return hole


HOLES: dict[str, Hole] = {"brush": brush, "box": box, "object": thing}
