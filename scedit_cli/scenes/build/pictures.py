"""Stage 1: the images and the ground truth that all other stages train on."""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from scedit_cli.scenes.captions import caption
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.render import render
from scedit_cli.scenes.scene import COLORS
from scedit_cli.utils.workers import serve_parent

CHUNK = 500


def render_all(work: Path, scenes: int, truths: int, styled: int, processes: int = 2) -> None:
    """Render plain images of seeds 0..scenes-1 (the first `truths` of them with depth, normals, segmentation and colour
    classes) and pastel ones of seeds 0..styled-1. Finished chunks are kept."""
    jobs = [(work, "plain", start, start < truths) for start in range(0, scenes, CHUNK)]
    jobs += [(work, "pastel", start, False) for start in range(0, styled, CHUNK)]
    jobs = [job for job in jobs if not _path(*job[:3]).exists()]
    with get_context("spawn").Pool(processes, initializer=serve_parent) as pool:
        for done, _ in enumerate(pool.imap_unordered(_chunk, jobs), 1):
            print(f"images: {done}/{len(jobs)} chunks of {CHUNK}", flush=True)


def load(work: Path, look: str, count: int, *names: str) -> list[np.ndarray]:
    """Load the first `count` rows of the named arrays: `images`, `captions`, `depth`, `normals`, `segmentation`,
    `colors`."""
    parts: list[list[np.ndarray]] = [[] for _ in names]
    for start in range(0, count, CHUNK):
        with np.load(_path(work, look, start)) as chunk:
            for part, name in zip(parts, names, strict=True):
                part.append(chunk[name][: count - start])
    return [np.concatenate(part) for part in parts]


def _path(work: Path, look: str, start: int) -> Path:
    return work / "pictures" / f"{look}-{start:06d}.npz"


def _chunk(job: tuple[Path, str, int, bool]) -> None:
    work, look, start, truth = job
    kept: dict[str, list] = {"images": [], "captions": []}
    for seed in range(start, start + CHUNK):
        scene = sample_scene(seed)
        picture = render(scene, look=look)
        kept["images"].append(picture.image)
        kept["captions"].append(caption(scene))
        if truth:
            classes = np.array([0, *(1 + list(COLORS).index(o.color) for o in scene.objects)], np.uint8)
            kept.setdefault("depth", []).append(picture.depth.astype(np.float16))
            kept.setdefault("normals", []).append((picture.normals * 127).astype(np.int8))
            kept.setdefault("segmentation", []).append(picture.segmentation)
            kept.setdefault("colors", []).append(classes[picture.instances + 1])
    path = _path(work, look, start)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{name: np.stack(values) for name, values in kept.items()})
    os.replace(partial, path)
