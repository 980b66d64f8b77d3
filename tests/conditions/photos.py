"""Photographs that come with scikit-image."""

from __future__ import annotations

from PIL import Image


def astronaut(width: int = 512, height: int = 512) -> Image.Image:
    """The whole photograph, 512 x 512, or its upper left part."""
    from skimage import data

    return Image.fromarray(data.astronaut()[:height, :width])
