"""Analytic ray casting of the embedded world: image, depth, normals and segmentation of a scene.

One ray is cast per pixel, and four more where the neighbourhood is not smooth, so that edges are antialiased at about a
third of the cost of supersampling everywhere. Units are metres, z points up; directions are unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scedit_cli.scenes.scene import COLORS, FLOORS, SKIES, Scene
from scedit_cli.scenes.shapes import hit, normal

SEG_CLASSES = ("sky", "floor", "sphere", "cube", "cylinder", "cone")
LOOKS = ("plain", "pastel")

_FIELD_OF_VIEW = np.deg2rad(38.0)
_PAPER = np.array((0.93, 0.87, 0.76), np.float32)
_INK = np.array((0.055, 0.035, 0.05), np.float32)


@dataclass(frozen=True)
class Rendering:
    """The camera's view of a scene.

    Attributes:
        image: uint8 (H, W, 3), sRGB.
        depth: float32 (H, W), metres along the camera's forward axis, inf for the sky.
        normals: float32 (H, W, 3) in camera axes (right, up, towards the viewer), 0 for the sky.
        segmentation: uint8 (H, W), indices into SEG_CLASSES.
        instances: int8 (H, W), indices into `scene.objects`, -1 for no object.
    """

    image: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    segmentation: np.ndarray
    instances: np.ndarray


def render(scene: Scene, size: int = 128, look: str = "plain") -> Rendering:
    """Render `scene` at `size` x `size` pixels. `look` is one of LOOKS; the geometry does not depend on it."""
    if look not in LOOKS:
        raise ValueError(f"look is {look!r}, expected one of {LOOKS}")
    camera = _camera(scene)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    ids, depth, normals, color = _trace(scene, camera, rows.ravel(), columns.ravel(), size, look)
    rough = _rough(ids.reshape(size, size), normals.reshape(size, size, 3), color.reshape(size, size, 3))
    at = np.flatnonzero(rough)
    if at.size:
        offset = np.array((-0.25, 0.25), np.float32)
        sub_rows = (rows.ravel()[at, None, None] + offset[None, :, None] + 0 * offset[None, None, :]).ravel()
        sub_columns = (columns.ravel()[at, None, None] + 0 * offset[None, :, None] + offset[None, None, :]).ravel()
        fine = _trace(scene, camera, sub_rows, sub_columns, size, look)[3]
        color[at] = fine.reshape(at.size, 4, 3).mean(1)
    color = color.reshape(size, size, 3)
    ids, normals = ids.reshape(size, size), normals.reshape(size, size, 3)
    if look == "pastel":
        color = _outlined(color, ids, normals)
    kinds = np.array([0, 1, *(SEG_CLASSES.index(o.shape) for o in scene.objects)], np.uint8)
    return Rendering(
        image=_to_srgb(color),
        depth=depth.reshape(size, size),
        normals=np.where(ids[..., None] >= -1, normals @ camera[1].T, 0).astype(np.float32),
        segmentation=kinds[ids + 2],
        instances=np.maximum(ids, -1).astype(np.int8),
    )


def visible_pixels(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, at `size` x `size` pixels, the visible pixels of each object and the pixels that it would cover alone."""
    camera = _camera(scene)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    origin, rays = camera[0], _rays(camera, rows.ravel(), columns.ravel(), size)
    distances = np.stack([hit(thing, origin, rays) for thing in scene.objects])
    nearest = distances.argmin(0)
    covered = np.isfinite(distances)
    seen = np.array([(covered[i] & (nearest == i)).sum() for i in range(len(scene.objects))])
    return seen, covered.sum(1)


# --- camera -----------------------------------------------------------------------------------------------------


def _camera(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the eye's position, and the camera's axes (rows: right, up, backward) in world coordinates."""
    eye = np.array(scene.eye, np.float32)
    forward = np.array(scene.target, np.float32) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1)).astype(np.float32)
    right /= np.linalg.norm(right)
    return eye, np.stack((right, np.cross(right, forward), -forward)).astype(np.float32)


def _rays(camera: tuple[np.ndarray, np.ndarray], rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    half = np.float32(np.tan(_FIELD_OF_VIEW / 2))
    across, upward = (2 * columns / size - 1) * half, (1 - 2 * rows / size) * half
    rays = np.stack((across, upward, np.full_like(across, -1)), 1) @ camera[1]
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


# --- rays -------------------------------------------------------------------------------------------------------


def _trace(scene, camera, rows, columns, size, look):
    """Return the id (-2 sky, -1 floor, else the object), forward depth, world normal and linear colour of every ray."""
    eye, axes = camera
    rays = _rays(camera, rows, columns, size)
    ids = np.full(len(rays), -2, np.int32)
    near = np.full(len(rays), np.inf, np.float32)
    down = np.flatnonzero(rays[:, 2] < -1e-4)
    near[down] = -eye[2] / rays[down, 2]
    ids[down] = -1
    for index, thing in enumerate(scene.objects):
        distance = hit(thing, eye, rays)
        closer = distance < near
        near[closer], ids[closer] = distance[closer], index
    normals = np.zeros_like(rays)
    normals[ids == -1, 2] = 1
    points = eye + rays * np.where(np.isfinite(near), near, 0)[:, None]
    for index, thing in enumerate(scene.objects):
        mine = ids == index
        normals[mine] = normal(thing, points[mine])
    shade = _shade_pastel if look == "pastel" else _shade_plain
    color = shade(scene, ids, points, normals, rays)
    depth = near * (rays @ -axes[2])
    return ids, depth, normals, color


# --- light ------------------------------------------------------------------------------------------------------


def _sky(scene: Scene, rays: np.ndarray) -> np.ndarray:
    zenith, horizon = (np.array(c, np.float32) for c in SKIES[scene.sky])
    up = np.clip(rays[:, 2:3] * 2.5, 0, 1)
    return horizon + (zenith - horizon) * up


def _floor_albedo(scene: Scene, points: np.ndarray) -> np.ndarray:
    albedo = np.broadcast_to(np.array(FLOORS[scene.floor], np.float32), points.shape)
    if scene.texture == "plain":
        return albedo
    c, s = np.cos(scene.floor_yaw), np.sin(scene.floor_yaw)
    u, v = points[:, 0] * c + points[:, 1] * s, points[:, 1] * c - points[:, 0] * s
    cell = np.floor(u / 1.5).astype(int) + (np.floor(v / 1.5).astype(int) if scene.texture == "checkered" else 0)
    # Far cells are smaller than a pixel, so they fade into their mean; otherwise they would flicker.
    fade = np.exp(-np.maximum(points[:, 1] - 2, 0) / 6)
    return albedo * (1 + 0.34 * fade * (cell % 2 - 0.5))[:, None]


def _albedo(scene: Scene, ids: np.ndarray, points: np.ndarray) -> np.ndarray:
    albedo = np.zeros_like(points)
    floor = ids == -1
    albedo[floor] = _floor_albedo(scene, points[floor])
    for index, thing in enumerate(scene.objects):
        albedo[ids == index] = COLORS[thing.color]
    return albedo


def _in_shadow(scene: Scene, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    light = np.array(scene.light, np.float32)
    start = points + normals * 4e-3
    towards = np.broadcast_to(light, points.shape)
    dark = np.zeros(len(points), bool)
    for thing in scene.objects:
        dark |= np.isfinite(hit(thing, start, towards))
    return dark


def _shade_plain(scene, ids, points, normals, rays):
    """Shade by Lambert and Blinn-Phong under a sun and a sky, with cast shadows; shiny objects also mirror the sky a
    little."""
    color = _sky(scene, rays)
    solid = np.flatnonzero(ids >= -1)
    ids, points, normals, rays = ids[solid], points[solid], normals[solid], rays[solid]
    light = np.array(scene.light, np.float32)
    facing = np.maximum(normals @ light, 0)
    lit = np.flatnonzero(facing > 0)
    facing[lit] *= ~_in_shadow(scene, points[lit], normals[lit])
    zenith = np.array(SKIES[scene.sky][0], np.float32)
    ambient = (0.26 + 0.12 * normals[:, 2:3]) * (0.7 + 0.3 * zenith / zenith.mean())
    shaded = _albedo(scene, ids, points) * (ambient + 0.95 * facing[:, None])
    shiny = np.array([False] + [o.shiny for o in scene.objects])[ids + 1]
    at = np.flatnonzero(shiny)
    half = light - rays[at]
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    gloss = np.maximum((normals[at] * half).sum(1), 0) ** 60 * (facing[at] > 0)
    bounce = rays[at] - 2 * (rays[at] * normals[at]).sum(1, keepdims=True) * normals[at]
    grazing = (1 - np.clip(-(rays[at] * normals[at]).sum(1), 0, 1)) ** 4
    mirror = (0.03 + 0.35 * grazing) * (bounce[:, 2] > 0)
    shaded[at] += 0.75 * gloss[:, None] + mirror[:, None] * _sky(scene, bounce)
    # The floor melts into the horizon with distance.
    haze = np.where(ids == -1, 1 - np.exp(-np.maximum(points[:, 1], 0) / 40), 0)[:, None]
    color[solid] = shaded + haze * (np.array(SKIES[scene.sky][1], np.float32) - shaded)
    return color


def _shade_pastel(scene, ids, points, normals, rays):
    """Shade in pale, almost flat colours on cream paper, as in a picture book; `_outlined` adds the ink lines."""
    color = np.broadcast_to(_PAPER, rays.shape).copy()
    solid = np.flatnonzero(ids >= -1)
    ids, normals = ids[solid], normals[solid]
    tint = _albedo(scene, ids, points[solid])
    strength = np.where(ids == -1, 0.30, 0.52)[:, None]
    step = np.where(normals @ np.array(scene.light, np.float32) > 0.35, 1.0, 0.84)[:, None]
    flat = np.where(ids[:, None] == -1, 1, step)
    color[solid] = (_PAPER + (tint / tint.max(1, keepdims=True) ** 0.7 - _PAPER) * strength) * flat
    return color


def _differs(values: np.ndarray, limit: float) -> np.ndarray:
    """Mark the pixels (H, W) that differ by more than `limit`, in any channel, from one of their four neighbours."""
    across = np.abs(np.diff(values, axis=1)).max(-1) > limit
    below = np.abs(np.diff(values, axis=0)).max(-1) > limit
    out = np.zeros(values.shape[:2], bool)
    out[:, :-1] |= across
    out[:, 1:] |= across
    out[:-1] |= below
    out[1:] |= below
    return out


def _rough(ids: np.ndarray, normals: np.ndarray, color: np.ndarray) -> np.ndarray:
    return _differs(ids[..., None], 0.5) | _differs(normals, 0.4) | _differs(color, 0.06)


def _outlined(color: np.ndarray, ids: np.ndarray, normals: np.ndarray) -> np.ndarray:
    edges = np.zeros(ids.shape, bool)
    edges[:, :-1] |= (np.diff(ids, axis=1) != 0) | (np.abs(np.diff(normals, axis=1)).max(-1) > 0.5)
    edges[:-1] |= (np.diff(ids, axis=0) != 0) | (np.abs(np.diff(normals, axis=0)).max(-1) > 0.5)
    return np.where(edges[..., None], _INK + 0.25 * (color - _INK), color)


def _to_srgb(color: np.ndarray) -> np.ndarray:
    color = np.clip(color, 0, 1)
    curve = np.where(color <= 0.0031308, 12.92 * color, 1.055 * color ** (1 / 2.4) - 0.055)
    return (curve * 255 + 0.5).astype(np.uint8)
