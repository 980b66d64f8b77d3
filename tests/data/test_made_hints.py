"""Hints that are made while training: of the pictures themselves, again at every step, the same after a resume."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.data.hints import Hints, MadeHints, open_condition_image


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def made(pictures, kind: str, *params: str, seed: int = 0) -> MadeHints:
    return MadeHints(pictures, (64, 48), make_specs([kind], params, seed=seed)[0])


@pytest.mark.parametrize("kind", ["canny", "color", "gray", "blur"])
def test_they_are_what_the_annotator_makes(pictures, kind):
    hints = made(pictures, kind)
    batch = hints.batch([2, 0], step=5)
    assert len(hints) == 3 and batch.shape == (2, 3, 48, 64) and batch.dtype == torch.float32
    for hint, index in zip(batch, (2, 0), strict=True):
        picture = conditions.annotate(kind, Image.open(pictures[index])).convert("RGB")
        assert torch.equal(hint, torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255)


def test_drawn_settings_change_with_the_step_and_nothing_else(pictures):
    hints = made(pictures, "canny", "low=20..600", "high=900", seed=3)
    first = hints.batch([0, 1], step=1)
    assert not torch.equal(first, hints.batch([0, 1], step=2))
    assert torch.equal(first, made(pictures, "canny", "low=20..600", "high=900", seed=3).batch([0, 1], step=1))
    assert torch.equal(first[1], hints.batch([1], step=1)[0])
    low = hints.order.settings("1.png 1").low
    expected = cv2.Canny(np.asarray(Image.open(pictures[1])), low, 900)
    assert np.array_equal(first[1, 0].numpy() * 255, expected)


def test_holes_are_never_the_same_twice(pictures):
    hints = made(pictures, "inpaint")
    one, other = hints.batch([0], step=1), hints.batch([0], step=2)
    assert one.shape == (1, 4, 48, 64) and not torch.equal(one[:, 3], other[:, 3])
    kept = one[0, 3] == 1
    picture = torch.from_numpy(np.array(Image.open(pictures[0]))).permute(2, 0, 1) / 255
    assert torch.equal(one[0, :3, kept], picture[:, kept]) and not one[0, :, ~kept].any()


def test_a_condition_with_alpha_is_read_with_it(pictures, tmp_path):
    holed = conditions.annotate("inpaint", Image.open(pictures[0]))
    holed.save(tmp_path / "holed.png")
    expected = torch.from_numpy(np.array(holed)).permute(2, 0, 1)
    assert torch.equal(Hints([tmp_path / "holed.png"], (64, 48), channels=4)[[0]][0], expected)
    assert open_condition_image(tmp_path / "holed.png", "inpaint").mode == "RGBA"
    assert open_condition_image(tmp_path / "holed.png", "canny").mode == "RGB"
