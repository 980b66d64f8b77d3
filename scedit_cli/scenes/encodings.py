"""Depth, normals and segmentation of the embedded world as pictures, and back."""

from __future__ import annotations

import numpy as np

DEPTH_NEAR, DEPTH_FAR = 2.0, 16.0  # metres; what lies outside is shown as the nearer of the two

# One colour per entry of SEG_CLASSES: sky, floor, sphere, cube, cylinder, cone.
SEG_PALETTE = np.array(
    [(0, 128, 255), (128, 128, 128), (255, 0, 0), (0, 200, 0), (255, 220, 0), (200, 0, 255)], np.uint8
)


def depth_to_picture(depth: np.ndarray) -> np.ndarray:
    """Depth in metres (..., inf for the sky) as uint8: 255 at DEPTH_NEAR falling linearly to 1 at DEPTH_FAR; sky 0."""
    finite = np.isfinite(depth)
    away = np.clip((np.where(finite, depth, DEPTH_FAR) - DEPTH_NEAR) / (DEPTH_FAR - DEPTH_NEAR), 0, 1)
    return np.where(finite, np.maximum(np.rint(255 * (1 - away)), 1), 0).astype(np.uint8)


def picture_to_depth(picture: np.ndarray) -> np.ndarray:
    """The inverse: uint8 (...) to float32 metres within 3 cm of what was shown, inf where the picture is black."""
    depth = DEPTH_NEAR + (DEPTH_FAR - DEPTH_NEAR) * (1 - picture.astype(np.float32) / 255)
    return np.where(picture > 0, depth, np.float32(np.inf))


def normals_to_picture(normals: np.ndarray) -> np.ndarray:
    """Camera-space unit normals (..., 3) as uint8 RGB: -1 is 0 and 1 is 255 in each axis; no surface (0, 0, 0) is
    mid-gray."""
    return np.rint((np.clip(normals, -1, 1) + 1) * 127.5).astype(np.uint8)


def picture_to_normals(picture: np.ndarray) -> np.ndarray:
    """The inverse: uint8 (..., 3) to float32 unit vectors, zero where the picture is about mid-gray."""
    normals = picture.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 0.5, normals / np.maximum(length, 0.5), np.float32(0))


def classes_to_picture(segmentation: np.ndarray) -> np.ndarray:
    """Class ids (...) as uint8 RGB (..., 3) in SEG_PALETTE."""
    return SEG_PALETTE[segmentation]
