#!/bin/sh
# Pillow 12.3.0: a gray picture of 16 bits becomes white when it is converted to RGB, or to 8 bits.
#
# Depth maps come as PNGs of 16 bits, which Pillow opens in the mode I;16. Image.convert("RGB") and convert("L") do not
# scale the 65,536 levels to 256, nor refuse: they cut off what is above 255. Of an even ramp from black to white, 99.6 %
# come out white. A picture of 16 bits per channel in colour, opened by the same call, is scaled as one expects.
#
# Seen (shares of white pixels of a ramp):
#   gray, 16 bits, to RGB: 0.996
#   gray, 16 bits, to L: 0.996
#   colour, 16 bits, as RGB: 0.004
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pillow==12.3.0 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(levels):
    """A PNG of 16 bits per channel, gray or colour, as its specification says."""
    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if levels.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def white(picture):
    return round(float((np.asarray(picture) == 255).mean()), 3)


ramp = np.arange(0, 65536, 16).reshape(64, 64)
gray = Image.open(png(ramp))
colour = Image.open(png(np.stack([ramp] * 3, axis=-1)))
assert gray.mode == "I;16" and colour.mode == "RGB"
print("gray, 16 bits, to RGB:", white(gray.convert("RGB")))
print("gray, 16 bits, to L:", white(gray.convert("L")))
print("colour, 16 bits, as RGB:", white(colour))
assert white(gray.convert("RGB")) == white(gray.convert("L")) == 0.996 and white(colour) == 0.004
PYTHON
