"""The reader is shown pictures at its own scale, and what it sees comes back at theirs, in their order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes import reader


class Plain:
    """A reader that takes black for sky and anything else for a sphere 5 m away, facing the viewer."""

    def __init__(self):
        self.shown = []

    def read(self, pictures: torch.Tensor) -> SimpleNamespace:
        self.shown.append(tuple(pictures.shape))
        solid = pictures[:, 0] > 0.5
        return SimpleNamespace(
            segmentation=solid.long() * 2,
            depth=torch.where(solid, 5.0, torch.inf),
            normals=torch.tensor((0.0, 0.0, 1.0))[:, None, None].expand(len(pictures), 3, *solid.shape[1:]),
        )


@pytest.fixture
def plain(monkeypatch):
    eye = Plain()
    monkeypatch.setattr(reader, "load_reader", lambda: eye)
    return eye


def half_white(width: int, height: int, left: bool = False) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, slice(None, width // 2) if left else slice(width // 2, None)] = 255
    return Image.fromarray(pixels)


def test_sizes_and_order_are_kept(plain):
    pictures = [half_white(128, 128), half_white(256, 384), half_white(128, 128, left=True)]
    first, second, third = read(pictures)
    assert plain.shown == [(2, 3, 128, 128), (1, 3, 192, 128)]
    assert second.depth.shape == second.segmentation.shape == (384, 256)
    for seen, picture in zip((first, second, third), pictures, strict=True):
        solid = np.asarray(picture)[..., 0] > 0
        assert np.array_equal(seen.segmentation, solid * 2)
        assert np.array_equal(seen.depth, np.where(solid, np.float32(5), np.float32(np.inf)))
        assert np.array_equal(seen.normals, solid[..., None] * np.array((0, 0, 1), np.float32))


def test_nothing_to_read(plain):
    assert read([]) == []
    assert plain.shown == []
