"""What needs no weights, on a photograph: pixel for pixel what OpenCV or controlnet_aux make of it, called directly."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.inpaint_masks import HOLES
from scedit_cli.utils.errors import SceditError
from tests.conditions.photos import astronaut


def made(kind: str, picture: Image.Image, **parameters) -> np.ndarray:
    return np.asarray(conditions.annotate(kind, picture, **parameters))


@pytest.mark.parametrize("thresholds", [{}, {"low": 30, "high": 90}])
def test_canny_is_controlnet_auxs(thresholds):
    options = {f"{name}_threshold": value for name, value in thresholds.items()}
    expected = detector("canny").CannyDetector()(astronaut(), **options)
    assert np.array_equal(made("canny", astronaut(), **thresholds), np.asarray(expected)[..., 0])


def test_color_is_the_mean_of_cells():
    expected = cv2.resize(np.asarray(astronaut()), (8, 8), interpolation=cv2.INTER_AREA).repeat(64, 0).repeat(64, 1)
    assert np.abs(made("color", astronaut()).astype(int) - expected).max() <= 1
    finer = cv2.resize(np.asarray(astronaut()), (32, 32), interpolation=cv2.INTER_AREA).repeat(16, 0).repeat(16, 1)
    assert np.abs(made("color", astronaut(), cells=32).astype(int) - finer).max() <= 1


def test_gray_is_luma():
    expected = cv2.cvtColor(np.asarray(astronaut()), cv2.COLOR_RGB2GRAY).astype(int)
    assert np.abs(made("gray", astronaut()) - expected).max() <= 1


def test_blur_is_gaussian():
    for sigma in (4, 9.5):
        expected = cv2.GaussianBlur(np.asarray(astronaut()), (0, 0), sigma)
        assert np.array_equal(made("blur", astronaut(), sigma=sigma), expected)
    assert np.array_equal(made("blur", astronaut()), made("blur", astronaut(), sigma=4))


def test_shuffle_is_controlnet_auxs_with_the_same_seed():
    for seed, scale in ((0, 256), (7, 64)):
        np.random.seed(seed ^ zlib.crc32(astronaut().tobytes()))
        expected = detector("shuffle").ContentShuffleDetector()(np.asarray(astronaut()), f=scale, output_type="np")
        assert np.array_equal(made("shuffle", astronaut(), seed=seed, scale=scale), expected)


def test_tile_keeps_what_a_small_copy_keeps():
    small = astronaut().resize((64, 64), Image.Resampling.BOX)
    assert np.array_equal(made("tile", astronaut()), np.asarray(small.resize((512, 512), Image.Resampling.BICUBIC)))
    tiny = astronaut().resize((16, 16), Image.Resampling.BOX).resize((512, 512), Image.Resampling.BICUBIC)
    assert np.array_equal(made("tile", astronaut(), factor=32), np.asarray(tiny))
    plain = made("tile", astronaut(), factor=1).astype(float)
    assert np.array_equal(plain, np.asarray(astronaut()))
    assert (made("tile", astronaut(), factor=1, noise=10) - plain).std() == pytest.approx(10, rel=0.1)
    worse, better = (np.abs(made("tile", astronaut(), factor=1, quality=q) - plain).mean() for q in (20, 90))
    assert 0 < better < worse


@pytest.mark.parametrize("mask", [*HOLES, "random"])
def test_inpaint_keeps_the_picture_around_holes_of_the_size_asked_for(mask):
    for least, most in ((0.1, 0.2), (0.3, 0.5)):
        shares = []
        for seed in range(6):
            picture = made("inpaint", astronaut(), mask=mask, seed=seed, least=least, most=most)
            hole = picture[..., 3] == 0
            assert np.array_equal(picture[~hole], np.dstack((astronaut(), np.full((512, 512), 255, np.uint8)))[~hole])
            assert not picture[hole].any()
            shares.append(hole.mean())
        assert least - 0.01 <= min(shares) and max(shares) <= most + 0.02
        assert len(set(shares)) > 1


def test_holes_have_their_shapes():
    picture = np.asarray(astronaut())
    box = HOLES["box"](picture, 0.2, 0.2, np.random.default_rng(0))
    rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
    assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 0.5 <= len(columns) / len(rows) <= 2
    # Where an object's hole ends the picture changes; where a box ends it need not.
    steps = np.abs(np.diff(picture.astype(int).sum(2), axis=1))
    ends = {name: [] for name in ("object", "box")}
    for name, values in ends.items():
        for seed in range(4):
            hole = HOLES[name](picture, 0.2, 0.4, np.random.default_rng(seed))
            values.append(cv2.blur(steps.astype(np.float32), (5, 5))[np.diff(hole.astype(int), axis=1) != 0].mean())
    assert np.mean(ends["object"]) > 1.5 * np.mean(ends["box"])


@pytest.mark.parametrize(
    ("side", "kept"),
    [
        ("left", np.s_[:, 128:]),
        ("right", np.s_[:, :384]),
        ("top", np.s_[128:]),
        ("bottom", np.s_[:384]),
        ("all", np.s_[64:448, 64:448]),
    ],
)
def test_outpaint_keeps_a_part(side, kept):
    alpha = np.zeros((512, 512), np.uint8)
    alpha[kept] = 255
    picture = made("outpaint", astronaut(), side=side, share=0.25)
    assert np.array_equal(picture[..., 3], alpha)
    assert np.array_equal(picture[..., :3], np.asarray(astronaut()) * (alpha > 0)[..., None])


@pytest.mark.parametrize(
    ("kind", "parameters"), [("inpaint", {}), ("outpaint", {}), ("shuffle", {}), ("tile", {"noise": 5})]
)
def test_chance_is_the_pictures_own(kind, parameters):
    """The same alone as in a batch, another with another seed, and another for another picture."""
    black, white = (Image.new("RGB", (96, 64), color) for color in ("black", "white"))
    chosen = conditions.find(kind).annotator()
    make = chosen.load(chosen.settings(**parameters))
    photo = astronaut(96, 64)
    for alone, among in zip((photo, white), make([photo, black, white])[::2], strict=True):
        assert np.array_equal(make([alone])[0], among)
    assert not np.array_equal(make([photo])[0], made(kind, photo, seed=1, **parameters))
    if kind != "shuffle":  # of one colour, it stays as it was
        assert not np.array_equal(255 - np.asarray(make([black])[0]), np.asarray(make([white])[0]))


def test_hints_are_scaled_by_their_kind():
    gray = Image.fromarray(np.array([[0, 51, 255]], np.uint8))
    hint = conditions.find("canny").hint(gray)
    assert hint.dtype == np.float32 and hint.shape == (3, 1, 3)
    assert np.allclose(hint, np.array([0, 0.2, 1]))
    deep = Image.fromarray(np.array([[0, 13107, 65535]], np.uint16))
    assert np.allclose(conditions.find("depth").hint(deep), np.array([0, 0.2, 1]))
    colors = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert np.allclose(conditions.find("seg").hint(colors) * 255, np.arange(12).reshape(2, 2, 3).transpose(2, 0, 1))
    holed = conditions.annotate("inpaint", astronaut())
    hint = conditions.find("inpaint").hint(holed)
    assert hint.shape == (4, 512, 512)
    assert np.array_equal(hint[3] == 1, np.asarray(holed)[..., 3] == 255)
    assert (conditions.find("inpaint").hint(astronaut())[3] == 1).all()


@pytest.mark.parametrize(
    ("kind", "parameters", "sentence"),
    [
        ("inpaint", {"mask": "star"}, "mask is 'star'.*'brush'"),
        ("inpaint", {"least": 0.6}, "least is 0.6, above most, which is 0.5"),
        ("inpaint", {"most": 1.5, "hole": 1}, "no parameter 'hole'.*most is 1.5|most is 1.5.*no parameter 'hole'"),
        ("blur", {"sigma": 0}, "sigma is 0.*greater than 0"),
        ("blur", {"sigma": "nan"}, "sigma is 'nan'.*finite"),
        ("gradient", {"sigma": 0.01}, "sigma is 0.01.*greater than or equal to 0.1"),
        ("gradient", {"slope": 1e-300}, "slope is 1e-300.*greater than or equal to 0.1"),
        ("color", {"cells": "2.5"}, "cells is '2.5'.*integer"),
        ("outpaint", {"side": "up"}, "side is 'up'.*'top'"),
        ("depth", {"bits": 12}, "bits is 12.*multiple of 8"),
    ],
)
def test_values_that_cannot_be_are_told(kind, parameters, sentence):
    with pytest.raises(SceditError, match=f"{kind} by .*{sentence}"):
        conditions.annotate(kind, astronaut(64, 64), **parameters)
