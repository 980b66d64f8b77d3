"""What can stand in the embedded world, and how a seed chooses it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("sphere", "cube", "cylinder", "cone")

# Linear-light albedos, chosen so that every pair stays apart under shading and in an 8x-smaller latent.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.62, 0.03, 0.03),
    "orange": (0.85, 0.25, 0.02),
    "yellow": (0.85, 0.66, 0.03),
    "green": (0.05, 0.38, 0.06),
    "cyan": (0.06, 0.58, 0.62),
    "blue": (0.03, 0.08, 0.62),
    "purple": (0.28, 0.04, 0.48),
    "white": (0.85, 0.85, 0.85),
}

FLOORS: dict[str, tuple[float, float, float]] = {
    "gray": (0.26, 0.26, 0.26),
    "beige": (0.50, 0.38, 0.23),
    "slate": (0.07, 0.09, 0.14),
    "sage": (0.20, 0.30, 0.18),
}
TEXTURES = ("plain", "checkered", "striped")

# Zenith and horizon of each sky.
SKIES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "blue": ((0.12, 0.30, 0.66), (0.62, 0.76, 0.90)),
    "evening": ((0.30, 0.22, 0.45), (0.92, 0.60, 0.40)),
    "cloudy": ((0.45, 0.48, 0.52), (0.78, 0.79, 0.80)),
}

_REACH = {"sphere": 1.0, "cube": 1.18, "cylinder": 0.86, "cone": 1.0}  # footprint radius per unit of size


@dataclass(frozen=True)
class Thing:
    """One object standing on the floor. `size` is in metres: a sphere's radius, the others scaled to look as large."""

    shape: str
    color: str
    x: float
    y: float
    size: float
    yaw: float
    shiny: bool

    @property
    def footprint(self) -> float:
        """Radius in metres of the circle that the object covers on the floor."""
        return _REACH[self.shape] * self.size


@dataclass(frozen=True)
class Scene:
    """A world of one to four objects, with its floor, sky, light and camera.

    `light` is a unit vector towards the sun; the camera stands at `eye` (metres, z up) and looks at `target`.
    """

    seed: int
    objects: tuple[Thing, ...]
    floor: str
    texture: str
    floor_yaw: float
    sky: str
    light: tuple[float, float, float]
    eye: tuple[float, float, float]
    target: tuple[float, float, float]


def sample_scene(seed: int) -> Scene:
    """The scene that belongs to `seed`, the same on every machine.

    Objects never touch on the floor; each shows at least 45 % of its outline and 1 % of the picture, so that a
    caption naming it is true of what can be seen, while partly hidden objects do occur.
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
    """`count` objects that keep apart on the floor, or nothing when they did not fit."""
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
    from scedit_cli.scenes.render import visible_pixels

    seen, whole = visible_pixels(scene, size)
    return bool((seen >= 0.45 * whole).all() and (seen >= 0.01 * size * size).all())
