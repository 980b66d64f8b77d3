"""The meaning of transparency in photographs, condition images and masks; every other module uses these functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_HALF = 128  # the first of 256 levels that is at least 0.5


def photograph(image: Image.Image) -> Image.Image:
    """Return a photograph as RGB, its transparency laid on white."""
    image = in_8_bits(image)
    if image.has_transparency_data:
        return _laid_on("white", in_rgba(image))
    return image if image.mode == "RGB" else image.convert("RGB")  # `convert` copies an image that is RGB already


def condition_image(image: Image.Image, channels: int = 3, name: str = "the condition image") -> Image.Image:
    """Return a condition image as the tuner takes it. Applying this twice changes nothing more.

    Args:
        channels: 3 lays its transparency on black; an image without any is returned as it is, in its own mode.
            4 gives mode RGBA, black wherever alpha is 0, even if the file holds other colours there.
        name: the name of the image in errors.

    Raises:
        SceditError: nothing is left of a drawing once it is laid on black.
    """
    if channels == 4:
        image = in_8_bits(image).convert("RGBA")
        image.paste((0, 0, 0, 0), mask=image.getchannel("A").point(lambda level: 255 * (level == 0)))
        return image
    if not image.has_transparency_data:
        return image
    image = in_rgba(in_8_bits(image))
    laid = _laid_on("black", image)
    if _is_plain(laid) and not _is_plain(image):
        raise SceditError(
            f"nothing is left of {name} once its transparency is laid on black",
            hint="draw in white, take its alpha channel as the image, or save it without transparency",
        )
    return laid


def mask_image(image: Image.Image, name: str = "the mask") -> Image.Image:
    """Return a mask as mode L: luminance times opacity.

    Raises:
        SceditError: as `condition_image`.
    """
    return in_8_bits(condition_image(image, name=name)).convert("L")


def cut_mask(mask: Image.Image) -> Image.Image:
    """Return a mask of mode L cut at 0.5, as diffusers cuts it: 255 from there on, 0 below."""
    return mask.point(lambda level: 255 * (level >= _HALF))


def luminance(pixels: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601, as in `mask_image`) of RGB images (B, 3, H, W) as (B, 1, H, W)."""
    red, green, blue = pixels.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def in_8_bits(image: Image.Image) -> Image.Image:
    """Return an image that Pillow converts correctly: 16-bit gray is cut to 8 bits, keeping its transparency."""
    scale_key(image)
    if not image.mode.startswith("I;16"):
        return image
    levels, key = np.asarray(image), image.info.get("transparency")
    gray = (levels >> 8).astype(np.uint8)
    return Image.fromarray(gray if key is None else np.dstack((gray, np.where(levels == key, 0, 255).astype("u1"))))


def scale_key(image: Image.Image) -> None:
    """Convert a PNG's transparent colour (tRNS) from the file's bit depth, which is known only until the pixels are
    loaded, to the pixels' depth. Pillow keeps the upper bytes of 16-bit colours, so these are compared."""
    key, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    raw = tiles[0].args if tiles and image.format == "PNG" else None
    if key is None or raw not in ("L;2", "L;4", "RGB;16B"):
        return
    image.load()
    if raw == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in key)
    else:
        bits = int(raw[2:])
        image.info["transparency"] = key % 2**bits * 255 // (2**bits - 1)


def in_rgba(image: Image.Image) -> Image.Image:
    """Return an image in mode RGBA, without a copy if it is in it already: copies of large images exceed a GiB."""
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _laid_on(colour: str, image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")


def _is_plain(image: Image.Image) -> bool:
    return all(least == most for least, most in image.getextrema())
