"""Reading and writing of image files."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import isal_zlib
from PIL import Image, ImageCms, ImageOps

from scedit_cli.data.formats import ANIMATED, heif_formats, is_heif, unread
from scedit_cli.utils.errors import SceditError, is_out_of_memory, not_installed
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.transparency import in_8_bits, in_rgba, mask_image, photograph, scale_key

# Other formats are left out: Pillow would run PostScript, under any file name, in Ghostscript. An MPO opens as a JPEG.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM", "ICO")
_LAST = ("TGA",)  # tried last, since TGA has no signature: an ICO of 128x128 pixels would be misread as one
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_SAME = 1  # levels of 255 by which a profile's colours may differ from sRGB's without being converted
_COLOUR_TYPES = {"L": 0, "RGB": 2, "RGBA": 6}  # codes of the PNG format
_SUB = 1  # PNG's filter that keeps the difference to the pixel on the left
LARGEST_FILE = 2**29  # bytes of one file in an archive
_MOST_PIXELS = 2**26  # in an image that is decoded: three copies of them stay below a GiB
_GAP = 2.0  # a JPEG is decoded to at least this many times its final size, as in Pillow's `thumbnail`


def open_image(source: Path | Image.Image) -> Image.Image:
    """Read the photograph in a file or in memory in mode RGB and sRGB: turned upright by its EXIF orientation,
    converted by its ICC profile, transparency laid on white, 16-bit gray cut to 8 bits.

    Raises:
        SceditError: the file does not exist, is no image that can be read completely, or an animation.
    """
    with reading(source) as opened:
        check_still(opened, name_of(source))
        return photograph(decode(opened))


def open_mask(source: Path | Image.Image) -> Image.Image:
    """Read the mask in a file or in memory in mode L: luminance times opacity.

    Raises:
        SceditError: as `open_image`; or its transparency leaves nothing of it.
    """
    with reading(source) as opened:
        check_still(opened, name_of(source))
        return mask_image(decode(opened), name_of(source))


def check_still(opened: Image.Image, name: str) -> None:
    """Raise SceditError if the file of an `opened` image holds several frames."""
    if opened.format in ANIMATED and getattr(opened, "is_animated", False):
        raise SceditError(f"{name} is an animation: save the frame that is meant as an image of its own")


def name_of(source: Path | Image.Image) -> str:
    """Return the name of an image in messages: its path, if it is a file."""
    return "the image" if isinstance(source, Image.Image) else str(source)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels of the upright image, from the file's header alone.

    Raises:
        SceditError: the file does not exist, or is no readable image.
    """
    with reading(path) as opened:
        return upright_size(opened)


@contextmanager
def identified(file: Path | BinaryIO | Image.Image) -> Iterator[Image.Image]:
    """Open the image in `file` without decoding it; an image in memory is copied.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: the file is no image of a supported format, or too large; for
            damaged files the decoders raise other errors too.
    """
    if isinstance(file, Image.Image):
        _check_size(file)
        scale_key(file)
        yield file.copy()
        return
    if isinstance(file, Path) and (why := unread(file.name)):
        raise ValueError(f"it is {why}")
    with Image.open(file, formats=_FORMATS + heif_formats() + _LAST) as opened:
        if opened.format != "JPEG":  # a JPEG can be decoded at a fraction of its size
            _check_size(opened)
        scale_key(opened)
        yield opened


@contextmanager
def reading(file: Path | BinaryIO | Image.Image, name: str | None = None) -> Iterator[Image.Image]:
    """Open the image in `file` without decoding it; errors within the `with` block become messages about `name`, by
    default that of the file.

    Raises:
        SceditError: as `open_image`; or the image is so large that it must be a decompression bomb.
    """
    name = name or name_of(file)
    try:
        with identified(file) as opened:
            yield opened
    except FileNotFoundError:
        raise SceditError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise SceditError(f"{name} is a folder, not an image", "name an image in it") from None
    except (MemoryError, SceditError):
        raise
    except Image.DecompressionBombError as error:
        raise SceditError(f"{name} is too large, as a decompression bomb is: {error}", hint="remove it") from error
    except Exception as error:  # the decoders raise errors of any class over damaged files
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        if not isinstance(file, Image.Image):
            if not heif_formats() and is_heif(_head(file)):
                raise not_installed(f"{name} is a HEIC image, which", "pi_heif", "heic", "save it as PNG") from None
            check_fetched(file, name)
        raise SceditError(f"{name} is no readable image: {_reason(error)}", "remove it or save it again") from error


def _head(file: Path | BinaryIO) -> bytes:
    """Return the first 12 bytes, which identify a file's format."""
    if isinstance(file, Path):
        with suppress(OSError), file.open("rb") as opened:
            return opened.read(12)
        return b""
    file.seek(0)
    return file.read(12)


def upright_size(opened: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image after its EXIF orientation is applied."""
    return opened.size[::-1] if _is_turned(opened) else opened.size


def decode(opened: Image.Image, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an opened image upright, in sRGB and 8 bits: RGBA where it has transparency, which
    `scedit_cli.utils.transparency` interprets, else RGB.

    Args:
        at_least: the width and height to which the image will be reduced. A JPEG over twice as large is decoded at 1/2,
            1/4 or 1/8 of its size, which takes a fraction of the time.
    """
    if at_least and opened.format == "JPEG":
        wanted = at_least[::-1] if _is_turned(opened) else at_least
        opened.draft(None, (round(_GAP * wanted[0]), round(_GAP * wanted[1])))
    _check_size(opened)
    profile = opened.info.get("icc_profile")
    if opened.mode in ("I", "F"):
        raise ValueError("its pixels are of 32 bits, 8 or 16 are read")
    ImageOps.exif_transpose(opened, in_place=True)
    image = in_8_bits(opened)
    if image.has_transparency_data:
        image = in_rgba(image)
    elif image.mode in ("P", "1", "YCbCr", "HSV"):
        image = image.convert("RGB")
    colours = "RGB" if image.mode == "RGBA" else image.mode
    if not (profile and (transform := _to_srgb(profile, colours))):
        # `convert` copies an image that is RGB already: 256 MiB of the largest.
        return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
    if image.mode != "RGBA":
        return ImageCms.applyTransform(image, transform)
    changed = ImageCms.applyTransform(image.convert("RGB"), transform)
    changed.putalpha(image.getchannel("A"))
    return changed


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG. ISA-L takes a tenth of the time of Pillow's fastest setting, for 6 % more bytes than its best."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.mode not in _COLOUR_TYPES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    height, width = image.height, image.width
    rows = np.asarray(image).reshape(height, -1)
    channels = rows.shape[1] // width
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1 : 1 + channels] = rows[:, :channels]
    np.subtract(rows[:, channels:], rows[:, :-channels], out=filtered[:, 1 + channels :])
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[image.mode], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, level=1)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(name)))


def _check_size(opened: Image.Image) -> None:
    if opened.width * opened.height > _MOST_PIXELS:
        raise ValueError(f"it is of {opened.width} x {opened.height} pixels, at most {_MOST_PIXELS:,} are read")


def _is_turned(opened: Image.Image) -> bool:
    return opened.getexif().get(_ORIENTATION) in _TURNED


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from an ICC profile to sRGB; None where it changes nothing or the profile is unusable."""
    try:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        # Many threads share one transform, so it must not cache the last pixel.
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", flags=ImageCms.Flags.NOCACHE)
    except (ImageCms.PyCMSError, OSError):  # the profile is damaged, or of another colour space
        return None
    if mode == "RGB":
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        levels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
        changed = np.asarray(ImageCms.applyTransform(Image.fromarray(levels), transform))
        if np.abs(changed.astype(int) - levels).max() <= _SAME:
            return None
    return transform


def _reason(error: Exception) -> str:
    """Return the error's text, without the name of an in-memory file."""
    text = str(error) or type(error).__name__
    return "its content is none that is known" if isinstance(error, Image.UnidentifiedImageError) else text
