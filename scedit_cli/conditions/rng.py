"""Random numbers seeded by an image's content, so that they do not depend on order, batch or process."""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image


def image_rng(image: Image.Image, seed: int) -> np.random.Generator:
    """Return a generator that depends only on the image's pixels and `seed` (at least 0)."""
    return np.random.default_rng((seed, zlib.crc32(image.tobytes())))
