"""Pictures that nobody would draw: whole ones of every format and mode, bombs, and seeded damage to them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from tests.faults.mutations import ESCAPES, HTML, damaged

SIZE = (80, 72)
_SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".txt", "")


_OTHERS = {
    "nothing": b"", "a byte": b"\x00", "a text": b"a cat\n" * 100, "zeros": bytes(10_000),
    "marks": b"\x89PNG\r\n\x1a\n", "a zip": b"PK\x03\x04" + bytes(100), "a page": b"<html><img src=x>",
    "a program": b"\x7fELF" + bytes(200),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch x'\ntR.", "a document": b"%PDF-1.7\n", "begins": b"\xff\xd8\xff",
    "a vector": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "a script": b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 9 9\n", "a video": b"\x00\x00\x00\x18ftypmp42" + bytes(99),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A file's content and the suffix it goes under."""

    name: str
    suffix: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.name}{self.suffix}"


def whole_ones() -> list[Picture]:
    """Readable pictures of every format in each of its modes, most of them with metadata; the last are unusual."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    deep = Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[::-1]) * 11)
    clear = noise.convert("RGBA")
    clear.putalpha(128)
    palette = noise.quantize(17)
    told = {"icc_profile": srgb, "exif": exif.tobytes()}
    many = {"save_all": True, "append_images": [noise.rotate(90 * turn) for turn in range(1, 5)], "duration": 40}
    gray, inks, bits = noise.convert("L"), noise.convert("CMYK"), noise.convert("1")
    plan = [
        ("rgb", "PNG", noise, told), ("rgba", "PNG", clear, {}), ("palette", "PNG", palette, {"transparency": 3}),
        ("bits", "PNG", bits, {}), ("gray", "PNG", gray, {"transparency": 7}), ("16bit", "PNG", deep, {}),
        ("animated", "PNG", noise, many), ("la", "PNG", clear.convert("LA"), {}), ("rgb", "JPEG", noise, told),
        ("gray", "JPEG", gray, {}), ("cmyk", "JPEG", inks, told), ("progressive", "JPEG", noise, {"progressive": True}),
        ("rgb", "MPO", noise, {"save_all": True, "append_images": [noise.copy()]}),
        ("rgb", "WEBP", noise, told), ("lossless", "WEBP", clear, {"lossless": True}),
        ("animated", "WEBP", noise, many), ("rgb", "GIF", noise, {}), ("animated", "GIF", palette, many),
        ("rgb", "BMP", noise, {}), ("palette", "BMP", palette, {}), ("bits", "BMP", bits, {}),
        ("rgb", "TIFF", noise, told), ("lzw", "TIFF", noise, {"compression": "tiff_lzw"}),
        ("deflate", "TIFF", clear, {"compression": "tiff_adobe_deflate"}), ("16bit", "TIFF", deep, {}),
        ("cmyk", "TIFF", inks, {}), ("jpeg", "TIFF", noise, {"compression": "jpeg"}), ("pages", "TIFF", noise, many),
        ("fax", "TIFF", bits, {"compression": "group4"}), ("lab", "TIFF", noise.convert("LAB"), {}),
        ("float", "TIFF", noise.convert("F"), {}), ("int", "TIFF", noise.convert("I"), {}),
        ("rgb", "AVIF", noise, told),
        ("rgb", "PPM", noise, {}), ("rgb", "TGA", noise, {}), ("rgb", "ICO", noise, {}),
    ]  # fmt: skip
    return [_encoded(name, format, picture, options) for name, format, picture, options in plan]


def _encoded(name: str, format: str, picture: Image.Image, options: dict) -> Picture:
    buffer = io.BytesIO()
    picture.copy().save(buffer, format, **options)  # a JPEG's settings would stay with the picture
    suffix = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "PPM": ".bmp"}.get(format, f".{format.lower()}")
    return Picture(f"{name}-{format.lower()}", suffix, buffer.getvalue())


def odd_ones() -> Iterator[Picture]:
    """Bombs of 100,000 x 100,000 pixels in every format that can claim them, chunks without end, lying sizes, odd
    metadata, other kinds of file."""
    for side in (100_000, 20_000, 2**31 - 1, 0):
        short = struct.pack("<HH", side % 65536, side % 65536)
        zeros = _zeros(min(side, 20_000) ** 2 // 8)
        gray = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 278: side, 279: 9}
        yield Picture(f"bomb {side}", ".png", _png(side, side, zlib.compress(bytes(1000))))
        yield Picture(f"bomb {side} all there", ".png", _png(side, side, zeros, 1, 0))
        yield Picture(f"bomb {side}", ".bmp", _bmp(side, side))
        yield Picture(f"bomb {side} upside down", ".bmp", _bmp(side, -side))
        gif = b"GIF89a" + short + b"\x80\x00\x00" + bytes(6) + b"," + bytes(4) + short + b"\x00\x02\x02\x4c\x01\x00;"
        yield Picture(f"bomb {side}", ".gif", gif)
        yield Picture(f"bomb {side}", ".jpg", _jpeg(side % 65536, side % 65536))
        yield Picture(f"bomb {side}", ".tif", _tiff(gray))
        yield Picture(f"bomb {side} of strips", ".tif", _tiff(gray | {278: 1}))
        yield Picture(f"bomb {side}", ".webp", _webp(side))
        yield Picture(f"bomb {side}", ".ppm", b"P6 %d %d 255\n" % (side, side))
    hidden = _png(12_000, 12_000, _zeros(12_000 * 1_501), 1, 0)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 1, len(hidden), 22)
    yield Picture("bomb in an icon", ".ico", icon + hidden)
    yield Picture("a wide line", ".png", _png(2_000_000, 1, zlib.compress(bytes(6_000_001))))
    yield Picture("a high line", ".png", _png(1, 2_000_000, zlib.compress(bytes(8_000_000))))
    plain = _png(8, 8, zlib.compress(bytes(8 * 25)))
    for kind in b"tEXt zTXt iTXt eXIf iCCP PLTE tRNS gAMA acTL fcTL fdAT IHDR xxxx".split():
        name = f"chunk {kind.decode()}"
        large = (b"a\x00\x00" + _zeros(2**28), b"a\x00" + b"x" * 2_000_000)
        for content in (b"", b"\xff" * 64, *large, ESCAPES.encode(), HTML.encode()):
            yield Picture(f"{name} of {len(content)}", ".png", plain[:33] + _chunk(kind, content) + plain[33:])
        yield Picture(f"{name} 20,000 times", ".png", plain[:33] + 20_000 * _chunk(kind, b"a") + plain[33:])
        yield Picture(f"{name} of 2 GiB", ".png", plain[:33] + struct.pack(">I", 2**31 - 1) + kind + b"abc")
    head = _jpeg(8, 8)
    segments = (
        b"", b"Exif\x00\x00" + b"MM\x00*" + b"\xff" * 200, b"ICC_PROFILE\x00\x01\xff" + b"\xff" * 400,
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\x12\x01" * 600,
        b"http://ns.adobe.com/xap/1.0/\x00<x" + b"<a>" * 5000,
    )  # fmt: skip
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDB, 0xC4, 0xC0, 0xDA, 0xD8, 0xDD):
        for segment in segments:
            data = head[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(segment) + 2) + segment + head[2:]
            yield Picture(f"segment {marker:x} of {len(segment)}", ".jpg", data)
    looped = bytearray(_tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 278: 8, 279: 64}))
    looped[-4:] = struct.pack("<I", 8)
    yield Picture("directories in a ring", ".tif", bytes(looped) + bytes(64))
    for tag in (254, 258, 259, 262, 270, 273, 277, 278, 279, 282, 317, 320, 322, 323, 330, 338, 339, 347, 34675, 34665):
        for value in (0, 7, 65535, 2**32 - 1):
            fields = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 278: 8, 279: 64}
            yield Picture(f"tag {tag} is {value}", ".tif", _tiff(fields | {tag: value}))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rng = random.Random(3)
    for number in range(60):
        picture = Image.new(rng.choice(("RGB", "L", "CMYK")), SIZE, 100)
        buffer = io.BytesIO()
        exif = b"Exif\x00\x00" + rng.randbytes(200)
        picture.save(buffer, "JPEG", icc_profile=damaged(profile, rng) or b"x", exif=exif)
        yield Picture(f"profile {number}", ".jpg", buffer.getvalue())
    for name, data in _OTHERS.items():
        for suffix in _SUFFIXES:
            yield Picture(name, suffix, data)


def large_ones(side: int) -> Iterator[Picture]:
    """Small files of that many pixels on each side, all of them there."""
    for name, bits, colour, samples in (("RGB", 8, 2, 24), ("RGBA", 8, 6, 32), ("bits", 1, 0, 1), ("deep", 16, 0, 16)):
        pixels = _zeros(side * (side * samples // 8 + 1))
        yield Picture(f"{name} of {side} x {side}", ".png", _png(side, side, pixels, bits, colour))


def damage(whole: list[Picture], rng: random.Random) -> Picture:
    """One of the whole pictures, damaged: anywhere, in its first bytes, cut at a place, or under a wrong suffix."""
    picture = rng.choice(whole)
    data, suffix = picture.data, picture.suffix
    match rng.randrange(4):
        case 0:
            data = damaged(data, rng)
        case 1:
            head = rng.choice((64, 200, 1000))
            data = damaged(data[:head], rng) + data[head:]
        case 2:
            data = data[: rng.randrange(len(data))]
        case 3:
            data, suffix = damaged(data, rng), rng.choice(_SUFFIXES)
    return Picture(picture.name, suffix, data)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, pixels: bytes, bits: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """So many zeros, compressed."""
    squeeze, block = zlib.compressobj(9), bytes(2**20)
    return b"".join(squeeze.compress(block) for _ in range(-(-count // 2**20))) + squeeze.flush()


def _bmp(width: int, height: int) -> bytes:
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + size + bytes(100)


def _jpeg(width: int, height: int) -> bytes:
    """A JPEG's head with another size written into it."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _webp(side: int) -> bytes:
    at_most = min(side, 2**24) - 1 if side else 0
    extended = b"\x10\x00\x00\x00" + at_most.to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + extended + b"VP8L" + struct.pack("<I", 20) + b"/" + b"\xff" * 19
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(fields: dict[int, int]) -> bytes:
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, fields[tag]) for tag in sorted(fields))  # each one number
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(fields)) + directory + bytes(4)
