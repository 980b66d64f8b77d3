"""Scenes of the embedded world: their shapes, colours, floors and skies, and the description of one scene."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("sphere", "cube", "cylinder", "cone")

# Linear-light albedos, chosen so that all pairs stay distinct under shading and in latents of an eighth of the size.
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

# The colours at the zenith and at the horizon of each sky.
SKIES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "blue": ((0.12, 0.30, 0.66), (0.62, 0.76, 0.90)),
    "evening": ((0.30, 0.22, 0.45), (0.92, 0.60, 0.40)),
    "cloudy": ((0.45, 0.48, 0.52), (0.78, 0.79, 0.80)),
}

_REACH = {"sphere": 1.0, "cube": 1.18, "cylinder": 0.86, "cone": 1.0}  # footprint radius per unit of size


@dataclass(frozen=True)
class Thing:
    """An object on the floor. `size` is in metres: a sphere's radius; other shapes are scaled to look as large."""

    shape: str
    color: str
    x: float
    y: float
    size: float
    yaw: float
    shiny: bool

    @property
    def footprint(self) -> float:
        """The radius in metres of the circle that the object covers on the floor."""
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
