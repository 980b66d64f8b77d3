"""The size of an image to generate, and images brought to it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from scedit_cli.models.base import Base

Size = tuple[int, int]  # width, height in pixels


def resized(
    image: Image.Image, size: Size, rule: str, by: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Return `image` at `size`, by one of RESIZE_RULES: "crop" fills the size and crops the rest, "fit" keeps the
    whole image between black bars, "stretch" changes its proportions."""
    if image.size == size:
        return image
    if image.mode.startswith("I;16"):  # Pillow resizes floats, but not 16-bit integers
        levels = resized(Image.fromarray(np.asarray(image).astype(np.float32)), size, rule, by)
        return Image.fromarray(np.asarray(levels).round().clip(0, 65535).astype(np.uint16))
    if rule == "stretch":
        return image.resize(size, by)
    return (ImageOps.fit if rule == "crop" else ImageOps.pad)(image, size, by)


def fitting(given: Size, size: Size, rule: str) -> str:
    """Return in words how `resized` brings an image of the size `given` to `size`, such as "cropped to"."""
    ratios = size[0] / given[0], size[1] / given[1]
    factor = max(ratios) if rule == "crop" else min(ratios)
    if given[0] * size[1] == given[1] * size[0]:
        return "enlarged to" if factor > 1 else "reduced to"
    if rule == "stretch":
        return "stretched to"
    return ("enlarged and " if factor > 1 else "") + ("cropped to" if rule == "crop" else "set between bars in")


def size_for(given: Size | None, width: int | None, height: int | None, base: Base, shrink: bool = False) -> Size:
    """Return the size to generate: `width` and `height` where given. A missing side follows from the proportions of
    the image of the `given` size, in the base's multiple; without one, it is the base's own.

    Args:
        given: the size of the image that determines the proportions, if any.
        shrink: whether an image of more pixels than the base draws by default is reduced to as many.
    """
    own, multiple = base.defaults.resolution, base.multiple
    if given is None:
        return width or own, height or own
    wide, high = given
    factor = 1.0
    if width or height:
        factor = width / wide if width else height / high
    elif shrink:
        factor = min(1.0, (own * own / (wide * high)) ** 0.5)
    return width or _floored(wide * factor, multiple), height or _floored(high * factor, multiple)


def _floored(side: float, multiple: int) -> int:
    return max(1, int(side + 1e-6) // multiple) * multiple
