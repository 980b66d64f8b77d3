"""Random scenes: the objects' places, the floor, the sky, the light and the camera of a seed."""

from __future__ import annotations

import numpy as np

from scedit_cli.scenes.render import visible_pixels
from scedit_cli.scenes.scene import COLORS, FLOORS, SHAPES, SKIES, TEXTURES, Scene, Thing


def sample_scene(seed: int) -> Scene:
    """Return the scene of `seed`, the same on every machine.

    Objects never touch on the floor. At least 45 % of an object's outline is visible, and it covers at least 1 % of the
    image: objects may be partly hidden, but a caption that names them is true of the image.
    """
    rng = np.random.default_rng([seed, 0x5CED17])
    count = int(rng.choice(4, p=(0.25, 0.35, 0.25, 0.15))) + 1
    azimuth, height = rng.uniform(-0.9, 0.9), rng.uniform(0.75, 1.1)
    light = np.array((np.sin(azimuth), -0.75 * np.cos(azimuth), height))
    light /= np.linalg.norm(light)
    scene = Scene(
        seed=seed,
        objects=(),
        floor=str(rng.choice(list(FLOORS))),
        texture=str(rng.choice(TEXTURES, p=(0.5, 0.3, 0.2))),
        floor_yaw=float(rng.uniform(0, np.pi)),
        sky=str(rng.choice(list(SKIES))),
        light=tuple(float(v) for v in light),
        eye=(float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-8.0, -7.4)), float(rng.uniform(2.3, 2.9))),
        target=(0.0, 0.0, float(rng.uniform(0.65, 0.85))),
    )
    while True:
        things = _place(rng, count)
        if things and _all_visible(candidate := _with_objects(scene, things)):
            return candidate


def _with_objects(scene: Scene, things: tuple[Thing, ...]) -> Scene:
    return Scene(**{**scene.__dict__, "objects": things})


def _place(rng: np.random.Generator, count: int) -> tuple[Thing, ...]:
    """Return `count` objects that keep apart on the floor, or an empty tuple if they did not fit."""
    things: list[Thing] = []
    for _ in range(count):
        for _ in range(30):
            thing = Thing(
                shape=str(rng.choice(SHAPES)),
                color=str(rng.choice(list(COLORS))),
                x=float(rng.uniform(-1.9, 1.9)),
                y=float(rng.uniform(-2.6, 1.8)),
                size=float(rng.uniform(0.72, 1.08)),
                yaw=float(rng.uniform(0, np.pi / 2)),
                shiny=bool(rng.random() < 0.5),
            )
            apart = all(np.hypot(thing.x - o.x, thing.y - o.y) > thing.footprint + o.footprint + 0.1 for o in things)
            if apart and all((thing.color, thing.shape) != (o.color, o.shape) for o in things):
                things.append(thing)
                break
        else:
            return ()
    return tuple(things)


def _all_visible(scene: Scene, size: int = 40) -> bool:
    seen, whole = visible_pixels(scene, size)
    return bool((seen >= 0.45 * whole).all() and (seen >= 0.01 * size * size).all())
