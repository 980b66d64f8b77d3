"""Conversion of the embedded world's depth, normals and segmentation to images and back."""

from __future__ import annotations

import numpy as np

DEPTH_NEAR, DEPTH_FAR = 2.0, 16.0  # metres; depths outside are shown as the nearer of the two

# One colour per entry of SEG_CLASSES: sky, floor, sphere, cube, cylinder, cone.
SEG_PALETTE = np.array(
    [(0, 128, 255), (128, 128, 128), (255, 0, 0), (0, 200, 0), (255, 220, 0), (200, 0, 255)], np.uint8
)


def depth_to_image(depth: np.ndarray) -> np.ndarray:
    """Convert depth in metres (any shape, inf for the sky) to uint8: 255 at DEPTH_NEAR, falling linearly to 1 at
    DEPTH_FAR; the sky is 0."""
    finite = np.isfinite(depth)
    away = np.clip((np.where(finite, depth, DEPTH_FAR) - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR), 0, 1)
    return np.where(finite, np.maximum(np.rint(255 * (1 - away)), 1), 0).astype(np.uint8)


def image_to_depth(image: np.ndarray) -> np.ndarray:
    """Convert a depth image, uint8 (any shape), back to float32 metres to within 3 cm, with inf where it is black."""
    depth = DEPTH_NEAR + (DEPTH_FAR - DEPTH_NEAR) * (1 - image.astype(np.float32) / 255)
    return np.where(image > 0, depth, np.float32(np.inf))


def normals_to_image(normals: np.ndarray) -> np.ndarray:
    """Convert camera-space unit normals (..., 3) to uint8 RGB: on every axis -1 becomes 0 and 1 becomes 255. (0, 0, 0),
    which stands for no surface, becomes mid-gray."""
    return np.rint((np.clip(normals, -1, 1) + 1) * 127.5).astype(np.uint8)


def image_to_normals(image: np.ndarray) -> np.ndarray:
    """Convert a normals image, uint8 (..., 3), back to float32 unit vectors, zero where it is about mid-gray."""
    normals = image.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 0.5, normals / np.maximum(length, 0.5), np.float32(0))


def classes_to_image(segmentation: np.ndarray) -> np.ndarray:
    """Convert class ids (any shape) to their uint8 RGB colours (..., 3) in SEG_PALETTE."""
    return SEG_PALETTE[segmentation]
