"""Sizes that pictures are brought to: buckets of like area and many shapes, and the cut that fits a picture to one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from scedit_cli.utils.errors import SceditError

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
    box: tuple[int, int, int, int]

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
        box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
        part = picture if box == (0, 0, *picture.size) else picture.crop(box)
        if part.size == self.size:
            return part
        return _lanczos(part, self.size) if blend else part.resize(self.size, Image.Resampling.NEAREST)


def fit(source: Size, size: Size) -> Fit:
    """The largest part of `source`, around its middle, that has the shape of `size`; whole pixels of it."""
    scale = max(size[0] / source[0], size[1] / source[1])
    width, height = (min(round(side / scale), most) for side, most in zip(size, source, strict=True))
    left, top = (source[0] - width) // 2, (source[1] - height) // 2
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


def exactly(source: Size, size: Size, upscale: bool = False) -> Size:
    """`size`, whatever shape a picture has.

    Raises:
        SceditError: a smaller picture, without `upscale`.
    """
    if (source[0] < size[0] or source[1] < size[1]) and not upscale:
        raise SceditError(f"{source[0]}x{source[1]} pixels, smaller than {size[0]}x{size[1]}")
    return size


@lru_cache(maxsize=32)
def _full_buckets(side: int, multiple: int) -> tuple[Size, ...]:
    """For each width the greatest height that keeps the area at most side², and the same the other way round."""
    sizes = set()
    for a in range(multiple, _LONGEST * side + 1, multiple):
        b = side * side // a // multiple * multiple
        if b and max(a, b) <= _LONGEST * min(a, b):
            sizes |= {(a, b), (b, a)}
    return tuple(sorted(sizes))


def _lanczos(picture: Image.Image, size: Size) -> Image.Image:
    """`picture` in another size. PyTorch's filter is Pillow's, within a level of 255, in a sixth of the time."""
    if picture.mode != "RGB" or not _torch_has_lanczos():
        return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=_GAP)
    pixels = torch.from_numpy(np.array(picture)[None]).permute(0, 3, 1, 2)
    scaled = F.interpolate(pixels, size=size[::-1], mode="lanczos", antialias=True)
    return Image.fromarray(scaled.permute(0, 2, 3, 1)[0].numpy())


@lru_cache(maxsize=1)
def _torch_has_lanczos() -> bool:
    """Whether this PyTorch is 2.12 or newer, by what it can do."""
    try:
        F.interpolate(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), size=(4, 4), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError):
        return False
    return True
