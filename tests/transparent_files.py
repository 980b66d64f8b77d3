"""One drawing in every way that a file can hold transparency."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

HIDDEN = 170  # the gray that files keep where they are transparent; it can be told in 2 bits


def png(levels: np.ndarray, bits: int, key: int | None = None) -> bytes:
    """A PNG of gray (H, W) or RGB (H, W, 3) samples of so many bits, one value of which is transparent (tRNS)."""
    high, wide = levels.shape[:2]
    colour = 2 if levels.ndim == 3 else 0
    if bits == 16:
        rows = levels.astype(">u2").reshape(high, -1).view(np.uint8)
    else:
        unpacked = np.unpackbits(levels.reshape(high, -1, 1).astype(np.uint8), axis=-1)[..., -bits:]
        rows = np.packbits(unpacked.reshape(high, -1), axis=-1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", wide, high, bits, colour, 0, 0, 0))]
    if key is not None:
        chunks.append((b"tRNS", struct.pack(">H", key) * (3 if colour else 1)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _deep(samples: np.ndarray, kind: int) -> bytes:
    """A PNG of 16 bits with alpha: `kind` is its colour type, 4 or 6."""
    high, wide = samples.shape[:2]
    data = png(samples.astype(np.uint16).reshape(high, -1) * 257, 16)
    header = struct.pack(">IIBBBBB", wide, high, 16, kind, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return data[:8] + chunk + data[33:]


def _tiff(samples: np.ndarray, alpha: str) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="rgb", extrasamples=[alpha])
    return file.getvalue()


def _palette(drawn: np.ndarray, gray: int, **options: object) -> bytes:
    image = Image.fromarray(drawn.astype(np.uint8))
    image.putpalette([HIDDEN] * 3 + [gray] * 3)
    return _saved(image, **options)


def _premultiplied(pixels: np.ndarray) -> np.ndarray:
    return np.dstack((pixels[..., :3] * (pixels[..., 3:] > 0), pixels[..., 3]))


def _of(gray: int, drawn: np.ndarray) -> np.ndarray:
    """RGBA: `gray` where it is drawn, HIDDEN and transparent elsewhere."""
    shade = np.where(drawn, gray, HIDDEN)
    return np.dstack([shade] * 3 + [np.where(drawn, 255, 0)]).astype(np.uint8)


WAYS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "rgba.png": lambda d, g: _saved(Image.fromarray(_of(g, d))),
    "la.png": lambda d, g: _saved(Image.fromarray(_of(g, d)[..., 2:])),
    "rgba16.png": lambda d, g: _deep(_of(g, d), 6),
    "la16.png": lambda d, g: _deep(_of(g, d)[..., 2:], 4),
    "palette-index.png": lambda d, g: _palette(d, g, transparency=0),
    "palette-bytes.png": lambda d, g: _palette(d, g, transparency=bytes([0, 255])),
    "palette-4-bits.png": lambda d, g: _palette(d, g, transparency=0, bits=4),
    "gray-key.png": lambda d, g: png(np.where(d, g, HIDDEN), 8, HIDDEN),
    "gray-key-4-bits.png": lambda d, g: png(np.where(d, g // 17, HIDDEN // 17), 4, HIDDEN // 17),
    "gray-key-2-bits.png": lambda d, g: png(np.where(d, g // 85, HIDDEN // 85), 2, HIDDEN // 85),
    "gray-key-16-bits.png": lambda d, g: png(np.where(d, g * 257, HIDDEN * 257), 16, HIDDEN * 257),
    "rgb-key.png": lambda d, g: png(np.dstack([np.where(d, g, HIDDEN)] * 3), 8, HIDDEN),
    "rgb-key-16-bits.png": lambda d, g: png(np.dstack([np.where(d, g * 257, HIDDEN * 257)] * 3), 16, HIDDEN * 257),
    "rgba.webp": lambda d, g: _saved(Image.fromarray(_of(g, d)), "WEBP", lossless=True, exact=True),
    "rgba.tiff": lambda d, g: _tiff(_of(g, d), "unassalpha"),
    "rgba16.tiff": lambda d, g: _tiff(_of(g, d).astype(np.uint16) * 257, "unassalpha"),
    "associated.tiff": lambda d, g: _tiff(_premultiplied(_of(g, d)), "assocalpha"),
    "la.tiff": lambda d, g: _saved(Image.fromarray(_of(g, d)[..., 2:]), "TIFF"),
    "rgba.tga": lambda d, g: _saved(Image.fromarray(_of(g, d)), "TGA"),
    "palette.gif": lambda d, g: _saved(Image.fromarray(_of(g, d)), "GIF"),
}


def written(folder: Path, way: str, drawn: np.ndarray, gray: int) -> Path:
    """A file whose pixels are `gray` where bool (H, W) `drawn` is true and transparent elsewhere."""
    path = folder / way
    path.write_bytes(WAYS[way](drawn, gray))
    return path
