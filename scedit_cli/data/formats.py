"""File formats by suffix: images, shards, and advice on image formats that are not supported."""

from __future__ import annotations

import os
from functools import cache

READ = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".heic", ".heif", ".hif", ".gif",
    ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
))  # fmt: skip
# The suffix alone decides: Pillow would read a camera's raw file as a TIFF and return its thumbnail.
_UNREAD = {
    "a JPEG XL image: save it as PNG, for example with djxl": (".jxl",),
    "a JPEG 2000 or JPEG XR image: save it as PNG": (".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".jxr", ".wdp", ".hdp"),
    "a camera's raw image: develop it, and save it as PNG or TIFF": (
        ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".raf", ".orf", ".rw2", ".rwl", ".pef",
        ".srw", ".x3f", ".3fr", ".iiq", ".erf", ".kdc", ".dcr", ".mrw",
    ),
    "a document of a drawing program: export it as PNG": (".psd", ".psb", ".xcf", ".kra", ".ora", ".afphoto"),
    "a vector drawing: export it as PNG": (".svg", ".svgz", ".eps", ".wmf", ".emf"),
    "an image of high dynamic range: bring it to 8 bits, and save it as PNG": (".exr", ".hdr", ".pfm"),
    "of a format that is not read: save it as PNG": (
        ".dds", ".ktx", ".ktx2", ".cur", ".icns", ".pcx", ".xbm", ".xpm", ".sgi", ".ras", ".qoi", ".dcm", ".fits",
        ".mng", ".jng", ".flif", ".bpg", ".pict",
    ),
}  # fmt: skip
_SHARDS = (".tar", ".tar.gz", ".tgz")
_ADVICE = {suffix: advice for advice, suffixes in _UNREAD.items() for suffix in suffixes}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # not TIFF or MPO, whose further images are pages or previews


def suffix_of(file: str) -> str:
    """Return a file name's last suffix in lower case, as ".png" of "deep/a.PNG"."""
    return os.path.splitext(file)[1].lower()


def is_readable(file: str) -> bool:
    """Return whether a file of this name is an image of a supported format."""
    return suffix_of(file) in READ


def unread(file: str) -> str | None:
    """Return what an image file of an unsupported format is and how to convert it; None for all other file names."""
    return _ADVICE.get(suffix_of(file))


def is_image(file: str) -> bool:
    """Return whether a file of this name is an image, of a supported format or not."""
    return is_readable(file) or unread(file) is not None


def is_shard(file: str) -> bool:
    """Return whether a file of this name is a WebDataset shard, compressed or not."""
    return file.lower().endswith(_SHARDS)


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins with `head` (at least 12 bytes) is a HEIC or HEIF image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def heif_formats() -> tuple[str, ...]:
    """Return Pillow's name of HEIF where pi_heif, which adds it to Pillow, is installed; else ()."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)
