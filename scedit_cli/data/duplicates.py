"""Duplicate images: those with similar perceptual hashes and similar colours."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from PIL import Image

_NEAR = 3  # bits of 64 in which the hashes of two versions of an image may differ
_PARTS = _NEAR + 1  # a hash has 4 parts of 16 bits, so hashes that differ in at most 3 bits share one
_COLOURS = 8 * 8 * 3  # bytes
_TONES = 6.0  # largest mean difference of the 8 x 8 thumbnails, in levels of 255


@dataclass(frozen=True, slots=True)
class Signature:
    """An image's 64-bit perceptual hash (pHash) and the bytes of its 8 x 8 RGB thumbnail."""

    shape: int
    colours: bytes


def signature(image: Image.Image) -> Signature:
    """Return the signature of an RGB image. It has a thumbnail because flat images of any colour share one hash."""
    import imagehash

    small = image.resize((64, 64), Image.Resampling.BOX)  # neither part needs more pixels
    bits = np.packbits(imagehash.phash(small).hash)
    return Signature(int.from_bytes(bits.tobytes()), small.reduce(8).tobytes())


class Duplicates:
    """An index of the images seen so far, some hundred bytes each, that finds the one that a later image repeats."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._shapes, self._colours = array("Q"), bytearray()
        self._near: dict[int, array[int]] = {}  # part of a hash with its place -> indices of the images that have it

    def first_of(self, name: str, signature: Signature) -> str | None:
        """Return the name of the earlier image that `name` repeats; if there is none, add `name` and return None."""
        parts = [part << 16 | signature.shape >> 16 * part & 0xFFFF for part in range(_PARTS)]
        for part in parts:
            for index in self._near.get(part, ()):
                if (self._shapes[index] ^ signature.shape).bit_count() <= _NEAR and self._is_alike(index, signature):
                    return self._names[index]
        for part in parts:
            self._near.setdefault(part, array("I")).append(len(self._names))
        self._names.append(name)
        self._shapes.append(signature.shape)
        self._colours += signature.colours
        return None

    def _is_alike(self, index: int, signature: Signature) -> bool:
        known = np.frombuffer(self._colours, np.uint8, _COLOURS, _COLOURS * index).astype(np.int16)
        return float(np.abs(known - np.frombuffer(signature.colours, np.uint8)).mean()) <= _TONES
