"""The renderer against geometry worked out by hand, and the promises of scene sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.render import LOOKS, SEG_CLASSES, render, visible_pixels
from scedit_cli.scenes.scene import Scene, Thing


def one(shape: str, **changes: float) -> Scene:
    """A single object at the origin, seen from seven metres in front at its own height."""
    thing = Thing(shape, "red", x=0.0, y=0.0, size=1.0, yaw=0.0, shiny=False)
    scene = sample_scene(0)
    return replace(scene, objects=(replace(thing, **changes),), eye=(0.0, -7.0, 0.8), target=(0.0, 0.0, 0.8))


@pytest.mark.parametrize(
    ("shape", "front"),
    [("sphere", 7 - np.sqrt(1 - 0.2**2)), ("cube", 7 - 0.82), ("cylinder", 7 - 0.84), ("cone", 7 - 0.98 * 1.25 / 2.05)],
)
def test_depth_at_the_middle_is_that_of_the_front_surface(shape: str, front: float) -> None:
    picture = render(one(shape), 129)  # an odd size has a ray straight ahead
    assert picture.depth[64, 64] == pytest.approx(front, abs=1e-3)
    assert SEG_CLASSES[picture.segmentation[64, 64]] == shape
    assert picture.instances[64, 64] == 0


def test_normals_face_the_camera_and_the_floor_faces_up() -> None:
    picture = render(one("cube"), 129)
    assert picture.normals[64, 64] == pytest.approx((0, 0, 1), abs=1e-5)
    floor = picture.segmentation == SEG_CLASSES.index("floor")
    assert picture.normals[floor] == pytest.approx(np.tile((0, 1, 0), (floor.sum(), 1)), abs=1e-5)
    assert not picture.normals[picture.segmentation == 0].any()


def test_a_turned_cube_shows_its_edge() -> None:
    picture = render(one("cube", yaw=np.pi / 4), 129)
    assert picture.depth[64, 64] == pytest.approx(7 - 0.82 * np.sqrt(2), abs=2e-2)


def test_the_sky_is_infinitely_far_and_the_floor_follows_perspective() -> None:
    picture = render(one("sphere"), 128)
    sky = picture.segmentation == 0
    assert sky[0].all() and not sky[-1].any()
    assert np.isinf(picture.depth[sky]).all() and np.isfinite(picture.depth[~sky]).all()
    # The lowest row looks 18.85 degrees down from 0.8 m: forward distance = height / tan(angle).
    down = np.tan(np.deg2rad(19)) * (2 * 127.5 / 128 - 1)
    assert picture.depth[-1, 0] == pytest.approx(0.8 / down, rel=1e-4)


def test_a_nearer_object_hides_a_farther_one() -> None:
    scene = one("sphere")
    front = replace(scene.objects[0], y=-3.0, shape="cube", color="blue")
    scene = replace(scene, objects=(scene.objects[0], front))
    assert render(scene, 129).instances[64, 64] == 1
    seen, whole = visible_pixels(scene, 64)
    assert seen[0] < whole[0] and seen[1] == whole[1]


def test_a_shadow_falls_away_from_the_light() -> None:
    scene = replace(one("cube"), light=(0.6, 0.0, 0.8), eye=(0.0, -7.0, 4.0), texture="plain")
    picture = render(scene, 128)
    columns = np.flatnonzero((picture.instances == 0).any(0))
    row = np.flatnonzero((picture.instances == 0).any(1))[-1]
    left, right = (int(picture.image[row, c].sum()) for c in (columns[0] - 3, columns[-1] + 3))
    assert left < 0.8 * right


def test_a_seed_is_one_picture_in_each_look() -> None:
    scene = sample_scene(5)
    pictures = {look: render(scene, 64, look) for look in LOOKS}
    again = render(sample_scene(5), 64)
    assert np.array_equal(pictures["plain"].image, again.image) and np.array_equal(pictures["plain"].depth, again.depth)
    assert np.array_equal(pictures["pastel"].depth, again.depth)
    assert np.abs(pictures["pastel"].image.astype(int) - again.image).mean() > 30
    assert not np.array_equal(render(sample_scene(6), 64).image, again.image)


def test_every_object_of_a_scene_can_be_seen_and_none_occurs_twice() -> None:
    counts = set()
    for seed in range(40):
        scene = sample_scene(seed)
        counts.add(len(scene.objects))
        assert len({(thing.color, thing.shape) for thing in scene.objects}) == len(scene.objects)
        picture = render(scene, 64)
        assert all((picture.instances == i).mean() > 0.007 for i in range(len(scene.objects)))
    assert counts == {1, 2, 3, 4}


def test_edges_are_antialiased() -> None:
    scene = sample_scene(3)
    fine = render(scene, 256).image.astype(float)
    covered = fine.reshape(64, 4, 64, 4, 3).mean((1, 3))  # what each of 64 x 64 pixels covers

    def error(image: np.ndarray) -> float:
        return np.sqrt(np.square(image - covered).mean())

    assert error(render(scene, 64).image) < 0.6 * error(fine[2::4, 2::4])


def test_an_unknown_look_is_refused() -> None:
    with pytest.raises(ValueError, match="oil"):
        render(sample_scene(0), 16, "oil")
