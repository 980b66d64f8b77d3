"""Buckets: like areas, multiples, no upscaling; and one cut for a picture and its conditions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli.data.buckets import bucket, exactly, fit
from scedit_cli.utils.errors import SceditError


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((512, 512), (512, 512)),
        ((4000, 3000), (576, 448)),
        ((3000, 4000), (448, 576)),
        ((1920, 1080), (640, 384)),
        ((9000, 1000), (1024, 256)),
        ((500, 500), (448, 448)),  # smaller ones keep their pixels
        ((130, 4000), (128, 512)),
        ((70, 64), (64, 64)),
    ],
)
def test_buckets_of_known_pictures(source, expected):
    assert bucket(source, 512, 64) == expected


@pytest.mark.parametrize("multiple", [32, 64])
@pytest.mark.parametrize("side", [128, 512, 1024])
def test_every_picture_gets_a_size_that_it_fills(side, multiple):
    draw = np.random.default_rng(0)
    for source in draw.integers(multiple, 4 * side, (300, 2)).tolist():
        width, height = bucket(tuple(source), side, multiple)
        assert width % multiple == height % multiple == 0
        assert width <= source[0] and height <= source[1] and width * height <= side * side
        assert max(width, height) <= 4 * min(width, height)
        if min(source) >= 2 * side:  # large pictures get a whole bucket: no row or column of the multiple is left over
            assert width * (height + multiple) > side * side or (width + multiple) * height > side * side


def test_upscaling_is_asked_for():
    assert bucket((100, 90), 512, 64, upscale=True) == (512, 512)
    assert exactly((100, 90), (512, 512), upscale=True) == (512, 512)
    for choose in (lambda: bucket((40, 900), 512, 64), lambda: exactly((511, 900), (512, 512))):
        with pytest.raises(SceditError, match="smaller than"):
            choose()


def test_a_cut_is_around_the_middle_and_scales_what_is_in_it():
    cut = fit((1000, 500), (256, 256))
    assert cut.box == (250, 0, 750, 500)
    assert (cut.scaled, cut.crop) == ((512, 256), (0, 128))
    halves = Image.new("RGB", (1000, 500), "red")
    halves.paste("blue", (500, 0, 1000, 500))
    pixels = np.asarray(cut.apply(halves, blend=False))
    assert pixels.shape == (256, 256, 3)
    assert (pixels[:, :128] == (255, 0, 0)).all() and (pixels[:, 128:] == (0, 0, 255)).all()
    blended = np.asarray(cut.apply(halves)).astype(int)
    assert np.abs(blended - pixels).max(axis=(0, 2))[:120].max() == 0


def test_a_picture_decoded_smaller_is_cut_in_the_same_place():
    ramp = Image.linear_gradient("L").resize((1200, 800)).convert("RGB")
    cut = fit((1200, 800), (256, 256))
    whole, reduced = (np.asarray(cut.apply(picture)).astype(int) for picture in (ramp, ramp.reduce(2)))
    assert np.abs(whole - reduced).max() <= 1


def test_a_picture_that_fits_is_left_alone():
    picture = Image.effect_noise((64, 128), 50).convert("RGB")
    assert fit((64, 128), (64, 128)).apply(picture) is picture
