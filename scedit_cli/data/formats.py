"""Which files are pictures or shards by their names, and what to do about those of formats that are not read."""

from __future__ import annotations

import os
from functools import cache

READ = frozenset((
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".heic", ".heif", ".hif", ".gif",
    ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico",
))  # fmt: skip
# Told by the suffix alone: of a camera's raw file, which is a TIFF inside, Pillow would give the thumbnail.
_UNREAD = {
    "a JPEG XL picture: save it as PNG, for example with djxl": (".jxl",),
    "a JPEG 2000 or JPEG XR picture: save it as PNG": (".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".jxr", ".wdp", ".hdp"),
    "a camera's raw picture: develop it, and save it as PNG or TIFF": (
        ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".raf", ".orf", ".rw2", ".rwl", ".pef",
        ".srw", ".x3f", ".3fr", ".iiq", ".erf", ".kdc", ".dcr", ".mrw",
    ),
    "a document of a drawing program: export it as PNG": (".psd", ".psb", ".xcf", ".kra", ".ora", ".afphoto"),
    "a vector drawing: export it as PNG": (".svg", ".svgz", ".eps", ".wmf", ".emf"),
    "a picture of high dynamic range: bring it to 8 bits, and save it as PNG": (".exr", ".hdr", ".pfm"),
    "of a format that is not read: save it as PNG": (
        ".dds", ".ktx", ".ktx2", ".cur", ".icns", ".pcx", ".xbm", ".xpm", ".sgi", ".ras", ".qoi", ".dcm", ".fits",
        ".mng", ".jng", ".flif", ".bpg", ".pict",
    ),
}  # fmt: skip
_SHARDS = (".tar", ".tar.gz", ".tgz")
_ADVICE = {suffix: advice for advice, suffixes in _UNREAD.items() for suffix in suffixes}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # the pages of a TIFF and the second picture of a phone's JPEG are no film


def suffix_of(file: str) -> str:
    """ "deep/a.PNG" -> ".png"."""
    return os.path.splitext(file)[1].lower()


def is_readable(file: str) -> bool:
    """Whether a file of this name is a picture of a format that is read."""
    return suffix_of(file) in READ


def unread(file: str) -> str | None:
    """What a file of this name is, and what to do about it, where it is a picture of a format that is not read."""
    return _ADVICE.get(suffix_of(file))


def is_picture(file: str) -> bool:
    """Whether a file of this name is a picture, of a format that is read or not."""
    return is_readable(file) or unread(file) is not None


def is_shard(file: str) -> bool:
    """Whether a file of this name is a WebDataset shard, packed or not."""
    return file.lower().endswith(_SHARDS)


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is a HEIC or HEIF picture."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def heif_formats() -> tuple[str, ...]:
    """Pillow's name of HEIF, where the library that reads it for Pillow is installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return ()
    register_heif_opener()
    return ("HEIF",)
