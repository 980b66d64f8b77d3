"""The solids of the embedded world: where rays meet them, and their normals.

Rays are tested only against objects whose bounding sphere they enter. Units are metres, z points up; directions are
unit vectors.
"""

from __future__ import annotations

import numpy as np

from scedit_cli.scenes.scene import Thing

_EPSILON = 1e-3


def hit(thing: Thing, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the distance (N,) along every ray to the object, inf where it misses. `origin` is (3,) or (N, 3)."""
    distance = np.full(len(rays), np.inf, np.float32)
    size = thing.size
    middle = np.array((thing.x, thing.y, size * _HALF_HEIGHT[thing.shape]), np.float32)
    to_middle = middle - origin
    along = (rays * to_middle).sum(1) if to_middle.ndim == 2 else rays @ to_middle
    away = (to_middle**2).sum(-1) - along**2
    at = np.flatnonzero((away < (size * _BOUND[thing.shape]) ** 2) & (along > -size * _BOUND[thing.shape]))
    if at.size:
        local, directions = _to_local(thing, origin[at] if to_middle.ndim == 2 else origin[None], rays[at])
        distance[at] = _INTERSECT[thing.shape](local, directions) * size
    return distance


def _to_local(thing: Thing, points: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transform points and rays into the object's own axes: it stands at the origin, with unit size and no yaw."""
    c, s = np.float32(np.cos(thing.yaw)), np.float32(np.sin(thing.yaw))
    turn = np.array(((c, -s, 0), (s, c, 0), (0, 0, 1)), np.float32)
    base = np.array((thing.x, thing.y, 0), np.float32)
    return ((points - base) / np.float32(thing.size)) @ turn, rays @ turn


def _positive(t: np.ndarray, ok: np.ndarray) -> np.ndarray:
    return np.where(ok & (t > _EPSILON), t, np.inf)


def _hit_sphere(o, d):
    o = o - np.array((0, 0, 1), np.float32)
    b = (o * d).sum(1)
    disc = b * b - (o * o).sum(1) + 1
    return _positive(-b - np.sqrt(np.maximum(disc, 0)), disc > 0)


_CUBE = 0.82  # half a side, per unit of size


def _hit_cube(o, d):
    o = o - np.array((0, 0, _CUBE), np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-_CUBE - o) / d, (_CUBE - o) / d
    enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    return _positive(enter, enter < leave)


_CYLINDER = (0.84, 1.75)  # radius and height, per unit of size


def _hit_cylinder(o, d):
    radius, height = _CYLINDER
    a = (d[:, :2] ** 2).sum(1) + 1e-12
    b = (o[:, :2] * d[:, :2]).sum(1)
    disc = b * b - a * ((o[:, :2] ** 2).sum(1) - radius**2)
    side = (-b - np.sqrt(np.maximum(disc, 0))) / a
    z = o[:, 2] + side * d[:, 2]
    side = _positive(side, (disc > 0) & (z > 0) & (z < height))
    return np.minimum(side, _hit_disc(o, d, radius, height))


_CONE = (0.98, 2.05)


def _hit_cone(o, d):
    radius, height = _CONE
    k = (radius / height) ** 2
    h = height - o[:, 2]
    a = (d[:, :2] ** 2).sum(1) - k * d[:, 2] ** 2
    b = (o[:, :2] * d[:, :2]).sum(1) + k * h * d[:, 2]
    disc = b * b - a * ((o[:, :2] ** 2).sum(1) - k * h**2)
    root = np.sqrt(np.maximum(disc, 0))
    best = np.full(len(d), np.inf, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        for t in ((-b - root) / a, (-b + root) / a):
            z = o[:, 2] + t * d[:, 2]
            best = np.minimum(best, _positive(t, (disc > 0) & (z > 0) & (z < height)))
    return best


def _hit_disc(o, d, radius, height):
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (height - o[:, 2]) / d[:, 2]
        inside = ((o[:, :2] + t[:, None] * d[:, :2]) ** 2).sum(1) < radius**2
    return _positive(t, inside)


_INTERSECT = {"sphere": _hit_sphere, "cube": _hit_cube, "cylinder": _hit_cylinder, "cone": _hit_cone}
_HALF_HEIGHT = {"sphere": 1.0, "cube": _CUBE, "cylinder": _CYLINDER[1] / 2, "cone": _CONE[1] / 2}
_BOUND = {  # radius of the sphere around the middle that holds the object, per unit of size
    "sphere": 1.001,
    "cube": _CUBE * 1.733,
    "cylinder": float(np.hypot(_CYLINDER[0], _CYLINDER[1] / 2)) + 1e-3,
    "cone": float(np.hypot(_CONE[0], _CONE[1] / 2)) + 1e-3,
}


def normal(thing: Thing, points: np.ndarray) -> np.ndarray:
    """Return the outward unit normals (N, 3) at points on the object's surface."""
    local, _ = _to_local(thing, points, points)
    if thing.shape == "sphere":
        outward = local - (0, 0, 1)
    elif thing.shape == "cube":
        local = local - (0, 0, _CUBE)
        axis = np.abs(local).argmax(1)
        outward = np.zeros_like(local)
        outward[np.arange(len(local)), axis] = np.sign(local[np.arange(len(local)), axis])
    elif thing.shape == "cylinder":
        top = local[:, 2] > _CYLINDER[1] - 1e-3
        outward = np.where(top[:, None], (0, 0, 1), local * (1, 1, 0))
    else:
        flat = np.linalg.norm(local[:, :2], axis=1) + 1e-9
        outward = np.column_stack((local[:, 0] / flat, local[:, 1] / flat, np.full(len(local), _CONE[0] / _CONE[1])))
    c, s = np.cos(thing.yaw), np.sin(thing.yaw)
    outward = outward @ np.array(((c, s, 0), (-s, c, 0), (0, 0, 1)))
    return (outward / np.linalg.norm(outward, axis=1, keepdims=True)).astype(np.float32)
