"""Pictures of depth, normals and classes, and the way back."""

from __future__ import annotations

import numpy as np

from scedit_cli.scenes import encodings
from scedit_cli.scenes.render import SEG_CLASSES


def test_depth_falls_from_white_to_black_and_the_sky_alone_is_black():
    depth = np.array([0.5, 2.0, 9.0, 16.0, 300.0, np.inf], np.float32)
    picture = encodings.depth_to_image(depth)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [255, 255, 128, 1, 1, 0]


def test_depth_comes_back_within_half_a_step():
    depth = np.linspace(2, 15.9, 1000, dtype=np.float32)
    back = encodings.image_to_depth(encodings.depth_to_image(depth))
    assert np.abs(back - depth).max() <= 14 / 255 / 2 + 1e-5
    assert np.isinf(encodings.image_to_depth(np.zeros(1, np.uint8))).all()


def test_normals_come_back_and_the_sky_stays_without():
    normals = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    back = encodings.image_to_normals(encodings.normals_to_image(normals))
    assert ((back * normals).sum(1) > 0.9999).all()
    assert not encodings.image_to_normals(encodings.normals_to_image(np.zeros((2, 3)))).any()


def test_palette_colours_stand_apart():
    palette = encodings.SEG_PALETTE.astype(float)
    assert len(palette) == len(SEG_CLASSES)
    distances = np.linalg.norm(palette[:, None] - palette[None], axis=-1)
    assert distances[~np.eye(len(palette), dtype=bool)].min() > 100
