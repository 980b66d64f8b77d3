"""Chance that a picture carries with it, so that it does not depend on order, batch or process."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image


def image_rng(picture: Image.Image, seed: int) -> np.random.Generator:
    """The same for the same pixels and `seed` (0 or more)."""
    return np.random.default_rng((seed, zlib.crc32(picture.tobytes())))
