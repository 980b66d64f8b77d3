"""Sizes that pictures are brought to: buckets of like area and many shapes, and the cut that fits a picture to one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from scedit_cli.errors import SceditError

Size = tuple[int, int]  # width and height in pixels
_LONGEST = 4  # longest side of a bucket / its shortest
_GAP = 3.0  # how much smaller a picture may become by averages of whole pixels, before Lanczos does the rest


@dataclass(frozen=True)
class Fit:
    """How a picture comes to its size: a box around its middle, scaled. A picture and its conditions share one.

    Attributes:
        source: of the picture, upright.
        size: of the result.
        box: left, top, right, bottom in pixels of the source.
    """

    source: Size
    size: Size
    box: tuple[float, float, float, float]

    @property
    def scaled(self) -> Size:
        """The size of the whole picture at the result's scale."""
        scale = self.size[0] / (self.box[2] - self.box[0])
        return round(self.source[0] * scale), round(self.source[1] * scale)

    @property
    def crop(self) -> tuple[int, int]:
        """Top and left of the box in pixels of the result, as SDXL wants them."""
        scale = self.size[0] / (self.box[2] - self.box[0])
        return round(self.box[1] * scale), round(self.box[0] * scale)

    def apply(self, picture: Image.Image, blend: bool = True) -> Image.Image:
        """`picture`, of the source's size or decoded smaller, cut and scaled. Without `blend` no colour is mixed."""
        across, down = picture.width / self.source[0], picture.height / self.source[1]
        left, top, right, bottom = self.box
        box = (left * across, top * down, min(right * across, picture.width), min(bottom * down, picture.height))
        if picture.size == self.size and box == (0, 0, *picture.size):
            return picture
        if blend:
            return picture.resize(self.size, Image.Resampling.LANCZOS, box, reducing_gap=_GAP)
        return picture.resize(self.size, Image.Resampling.NEAREST, box)


def fit(source: Size, size: Size) -> Fit:
    """The largest part of `source`, around its middle, that has the shape of `size`."""
    scale = max(size[0] / source[0], size[1] / source[1])
    width, height = min(size[0] / scale, source[0]), min(size[1] / scale, source[1])
    left, top = (source[0] - width) / 2, (source[1] - height) / 2
    return Fit(source, size, (left, top, left + width, top + height))


def bucket(source: Size, side: int, multiple: int, upscale: bool = False) -> Size:
    """The bucket of a picture: sides are multiples of `multiple`, the area that of a square of `side`, or less.

    Among those of the whole area that the picture fills, the one nearest to its shape; a picture that fills none gets
    its own size cut down to multiples. With `upscale` it is made larger instead.

    Raises:
        SceditError: a picture smaller than the smallest bucket.
    """
    width, height = source
    full = [(w, h) for w, h in _full_buckets(side, multiple) if upscale or (w <= width and h <= height)]
    if full:
        return min(full, key=lambda size: (abs(math.log(size[0] / size[1] * height / width)), size))
    smaller = [length // multiple * multiple for length in source]
    if not all(smaller):
        raise SceditError(f"{width}x{height} pixels, smaller than {multiple}x{multiple}")
    return min(smaller[0], _LONGEST * smaller[1]), min(smaller[1], _LONGEST * smaller[0])


def square(source: Size, side: int, upscale: bool = False) -> Size:
    """A square of `side`.

    Raises:
        SceditError: a smaller picture, without `upscale`.
    """
    if min(source) < side and not upscale:
        raise SceditError(f"{source[0]}x{source[1]} pixels, smaller than {side}x{side}")
    return side, side


@lru_cache(maxsize=32)
def _full_buckets(side: int, multiple: int) -> tuple[Size, ...]:
    """For each width the greatest height that keeps the area at most side², and the same the other way round."""
    sizes = set()
    for a in range(multiple, _LONGEST * side + 1, multiple):
        b = side * side // a // multiple * multiple
        if b and max(a, b) <= _LONGEST * min(a, b):
            sizes |= {(a, b), (b, a)}
    return tuple(sorted(sizes))
