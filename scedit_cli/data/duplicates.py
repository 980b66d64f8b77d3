"""Pictures that are the same to the eye: of near perceptual hashes and like colours."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from PIL import Image

_NEAR = 3  # bits of 64 in which the hashes of two versions of a picture may differ
_PARTS = _NEAR + 1  # so that one part of 16 bits is the same in both
_COLOURS = 8 * 8 * 3  # bytes
_TONES = 6.0  # mean difference of the 8 x 8 thumbnails, of 255


@dataclass(frozen=True, slots=True)
class Signature:
    """64 bits of shape (pHash) and an 8 x 8 thumbnail's bytes."""

    shape: int
    colours: bytes


def signature(picture: Image.Image) -> Signature:
    """Of an RGB picture. Flat pictures have one shape whatever their colour, hence the thumbnail."""
    import imagehash

    small = picture.resize((64, 64), Image.Resampling.BOX)  # all that either looks at
    bits = np.packbits(imagehash.phash(small).hash)
    return Signature(int.from_bytes(bits.tobytes()), small.reduce(8).tobytes())


class Duplicates:
    """Finds the first picture that a later one repeats, in some hundred bytes of memory for each."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._shapes, self._colours = array("Q"), bytearray()
        self._near: dict[int, array[int]] = {}  # a quarter of a hash, with its place -> the pictures that have it

    def first_of(self, name: str, signature: Signature) -> str | None:
        """The name of the earlier picture that `name` repeats; None, where it is the first of its kind."""
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
