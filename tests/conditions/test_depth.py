"""Depth: a known plane through the scaling, of 8 and 16 bits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DPTImageProcessor

from scedit_cli import conditions
from scedit_cli.conditions.kinds import depth


def plane(wide: int, high: int) -> np.ndarray:
    """Inverse depth of a plane that comes nearer from left to right and from top to bottom."""
    return 3 + np.linspace(0, 1, wide)[None] + np.linspace(0, 1, high)[:, None]


@pytest.mark.parametrize(("bits", "white", "kind"), [(8, 255, np.uint8), (16, 65535, np.uint16)])
def test_a_plane_is_stretched_evenly(bits, white, kind):
    picture = np.asarray(depth.stretched(plane(64, 48), bits))
    assert picture.dtype == kind
    assert np.array_equal(picture, np.rint((plane(64, 48) - 3) / 2 * white))
    assert picture[0, 0] == 0 and picture[-1, -1] == white


def test_one_distance_is_black():
    assert not np.asarray(depth.stretched(np.full((4, 4), 7.0))).any()


def test_the_networks_plane_comes_back_at_the_pictures_size(monkeypatch):
    shown = []

    def network(pixel_values: torch.Tensor) -> SimpleNamespace:
        shown.append(tuple(pixel_values.shape))
        seen = torch.from_numpy(plane(*pixel_values.shape[:1:-1])).float()
        return SimpleNamespace(predicted_depth=seen.expand(len(pixel_values), -1, -1))

    processor = DPTImageProcessor(size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14)
    monkeypatch.setattr(depth, "_network", lambda *_: (processor, network))
    annotator = conditions.find("depth").annotator()
    pictures = [Image.new("RGB", (200, 100)), Image.new("RGB", (120, 120)), Image.new("RGB", (200, 100))]
    made = annotator.load(annotator.settings(), Path("anywhere"))(pictures)
    assert sorted(shown) == [(1, 3, 70, 70), (2, 3, 70, 140)]
    for picture, seen in zip(pictures, made, strict=True):
        assert seen.size == picture.size
        ideal = (plane(*picture.size) - 3) / 2 * 255
        assert np.abs(np.asarray(seen) - ideal).max() < 4  # the network's pixels are 2 wide
