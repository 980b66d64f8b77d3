"""Condition images that do not look like their kind are told, and those that do are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from scedit_cli import conditions
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.render import render
from tests.conditions.photos import astronaut

PHOTOS = {
    "astronaut": astronaut(),
    "coffee": Image.fromarray(data.coffee()),
    "grass": Image.fromarray(data.grass()).convert("RGB"),  # edges all over
    "page": Image.fromarray(data.page()).convert("RGB"),  # black on white
    "scene": Image.fromarray(render(sample_scene(3)).image),
}
LINES = ("canny", "hed", "lineart", "lineart-anime", "mlsd", "pidinet", "scribble")


def doubt(kind: str, image: Image.Image) -> str | None:
    return conditions.find(kind).doubt(image)


@pytest.mark.parametrize("kind", [kind for kind in conditions.KINDS if conditions.is_quick(kind)])
@pytest.mark.parametrize("name", PHOTOS)
def test_what_our_annotators_make_is_not_doubted(kind: str, name: str) -> None:
    assert doubt(kind, conditions.annotate(kind, PHOTOS[name])) is None


@pytest.mark.parametrize("kind", LINES)
def test_lines_are_no_photograph_and_not_inverted(kind: str) -> None:
    assert "has colours, and" in doubt(kind, PHOTOS["astronaut"])
    edges = conditions.annotate("canny", PHOTOS["astronaut"])
    assert doubt(kind, edges) is None
    assert doubt(kind, ImageOps.invert(edges)) == f"is mostly light, and {kind} images are drawn on black"


@pytest.mark.parametrize("kind", ["canny", "scribble", "mlsd"])
def test_hard_lines_are_not_mostly_gray(kind: str) -> None:
    gray = PHOTOS["grass"].point(lambda level: level // 2)
    assert doubt(kind, gray) == f"is mostly gray, and {kind} images are black and white"
    assert doubt("hed", gray) is None


def test_lines_may_be_small_jpegs() -> None:
    edges, file = conditions.annotate("canny", PHOTOS["astronaut"]), io.BytesIO()
    edges.resize((128, 128), Image.Resampling.LANCZOS).save(file, "jpeg", quality=60)
    assert doubt("canny", Image.open(file)) is None
    assert doubt("canny", Image.new("L", (64, 64))) is None  # of a photograph without edges


def test_depth_in_false_colours_is_told() -> None:
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    false = Image.fromarray((255 * np.stack([ramp, 4 * ramp * (1 - ramp), 1 - ramp], -1)).astype(np.uint8))
    assert doubt("depth", false) == "has colours, and depth images are gray"
    assert doubt("depth", Image.fromarray((65535 * ramp).astype(np.uint16))) is None


def test_poses_have_colours_and_are_on_black() -> None:
    pose = Image.new("RGB", (64, 64))
    pose.paste((255, 0, 85), (10, 10, 20, 60))
    assert doubt("pose", pose) is None
    assert doubt("pose", ImageOps.invert(pose)) == "is mostly light, and pose images are drawn on black"


def test_a_kind_of_the_users_own_may_look_like_anything() -> None:
    assert conditions.kind_named("mine").doubt(PHOTOS["coffee"]) is None
