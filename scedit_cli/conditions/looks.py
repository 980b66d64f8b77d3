"""How condition images of a kind look, by which photographs and inverted drawings that are given for one are told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from scedit_cli.utils.transparency import in_8_bits

_SAMPLED = 512  # pixels of a side: enough for shares of an image
_LIGHT = 128  # the first of 256 levels that is nearer to white
_COLOURED, _COLOURS = 48, 0.05  # levels between a pixel's channels, and the share of pixels that a gray image may have
_BLACK, _WHITE = 32, 223  # levels between which a pixel is gray


@dataclass(frozen=True)
class Look:
    """How condition images of a kind look.

    Attributes:
        on_black: whether at least half of the pixels are dark.
        gray: whether they have no colours.
        binary: whether at least half of the pixels are black or white.
    """

    on_black: bool = False
    gray: bool = False
    binary: bool = False

    def difference(self, image: Image.Image, kind: str) -> str | None:
        """Return how an image differs from that of its `kind`, to follow the image's name; None if it does not."""
        if not (self.on_black or self.gray or self.binary):
            return None
        size = tuple(min(side, _SAMPLED) for side in image.size)
        # Nearest pixels, in their own levels: blended ones would be gray.
        pixels = np.asarray(in_8_bits(image.resize(size, Image.Resampling.NEAREST)).convert("RGB"))
        most, least = pixels.max(-1), pixels.min(-1)
        if self.gray and (most - least > _COLOURED).mean() > _COLOURS:
            return f"has colours, and {kind} images are gray"
        if self.on_black and (most >= _LIGHT).mean() > 0.5:
            return f"is mostly light, and {kind} images are drawn on black"
        if self.binary and ((most >= _BLACK) & (most <= _WHITE)).mean() > 0.5:
            return f"is mostly gray, and {kind} images are black and white"
        return None


SOFT_LINES = Look(on_black=True, gray=True)
HARD_LINES = Look(on_black=True, gray=True, binary=True)
