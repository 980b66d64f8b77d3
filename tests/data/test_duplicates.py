"""Pictures that look the same are found, those that merely resemble are not."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from skimage import data

from scedit_cli.data import duplicates
from scedit_cli.data.duplicates import Duplicates, Signature, signature


def photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB").resize((384, 256))


def packed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize("change", [
    lambda picture: picture,
    lambda picture: packed(picture, 40),
    lambda picture: picture.resize((192, 128), Image.Resampling.LANCZOS),
])  # fmt: skip
def test_versions_of_one_picture_are_one(change):
    known = Duplicates()
    for name in ("astronaut", "coffee", "chelsea"):
        assert known.first_of(name, signature(photo(name))) is None
    assert known.first_of("again", signature(change(photo("coffee")))) == "coffee"


def test_flat_pictures_of_two_colours_are_two():
    known = Duplicates()
    for colour in ("red", "blue", "black", "white"):
        assert known.first_of(colour, signature(Image.new("RGB", (64, 64), colour))) is None
    assert known.first_of("again", signature(Image.new("RGB", (128, 64), "blue"))) == "blue"


@pytest.mark.parametrize("flipped", [(0,), (0, 63), (15, 16, 47)])
def test_a_hash_may_differ_in_three_bits_wherever_they_are(flipped):
    known, colours = Duplicates(), bytes(192)
    known.first_of("a", Signature(0x0123_4567_89AB_CDEF, colours))
    near = 0x0123_4567_89AB_CDEF ^ sum(1 << bit for bit in flipped)
    assert known.first_of("b", Signature(near, colours)) == "a"
    assert known.first_of("c", Signature(0x0123_4567_89AB_CDEF ^ 0b1111, colours)) is None
    assert duplicates._NEAR == 3
