"""Pictures from and to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from scedit_cli.errors import SceditError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))


def open_picture(path: Path) -> Image.Image:
    """The whole picture in mode RGB: turned as its EXIF says, transparency laid on white, 16-bit gray cut to 8.

    Raises:
        SceditError: there is no such file, or no picture in it that can be read to its end.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except FileNotFoundError:
        raise SceditError(f"{path} does not exist") from None
    except MemoryError:
        raise
    except Exception as error:  # the decoders raise whatever a damaged file leads them to
        raise SceditError(f"{path} is no readable picture: {error}", hint="remove it or save it anew") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the file's header alone.

    Raises:
        SceditError: as `open_picture`.
    """
    try:
        with Image.open(path) as opened:
            return opened.size
    except FileNotFoundError:
        raise SceditError(f"{path} does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SceditError(f"{path} is no readable picture: {error}", hint="remove it or save it anew") from error


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG. The lightest compression: the next in effort takes three times as long to save a tenth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", compress_level=1)
