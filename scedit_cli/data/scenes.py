"""Scenes of the embedded world, as single examples and as dataset folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.dataset import row_of, write_rows
from scedit_cli.data.images import save_image
from scedit_cli.scenes import IMAGE_SIZE
from scedit_cli.scenes.captions import caption
from scedit_cli.scenes.encodings import classes_to_image, depth_to_image, normals_to_image
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.render import LOOKS, Rendering, render
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import whole_folder
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.workers import serve_parent, starting

_TRUE: dict[str, Callable[[Rendering], Image.Image]] = {
    "depth": lambda rendering: Image.fromarray(depth_to_image(rendering.depth)),
    "seg": lambda rendering: Image.fromarray(classes_to_image(rendering.segmentation)),
    "normal": lambda rendering: Image.fromarray(normals_to_image(rendering.normals)),
}
SCENE_KINDS = ("canny", "color", *_TRUE)
# Those, and the kinds that are made from the images of scenes, or of any others, without a network's weights.
POSSIBLE_KINDS = tuple(dict.fromkeys((*SCENE_KINDS, *filter(conditions.is_quick, conditions.KINDS))))
_CHUNK = 8  # scenes that a process renders before it reports
_ALONE = 24  # scenes, at most, that this process renders by itself, sooner than others would have started


@dataclass(frozen=True)
class Example:
    """An image (RGB), its caption, its condition images by kind, and the specs that made them where these are known."""

    image: Image.Image
    text: str
    conditions: dict[str, Image.Image]
    makers: dict[str, AnnotationSpec] = field(default_factory=dict)


def example(seed: int, kinds: Sequence[str] = SCENE_KINDS, size: int = IMAGE_SIZE, look: str = "plain") -> Example:
    """Return the scene of `seed` at `size` x `size` pixels. Depth, segmentation and normals come from the renderer;
    edges and palette are annotated from the image."""
    scene = sample_scene(seed)
    rendering = render(scene, size, look)
    image = Image.fromarray(rendering.image)
    made = {kind: _TRUE[kind](rendering) if kind in _TRUE else conditions.annotate(kind, image) for kind in kinds}
    return Example(image, caption(scene), made)


def write_scenes(
    out: str | Path,
    count: int,
    seed: int = 0,
    look: str = "plain",
    *,
    size: int = IMAGE_SIZE,
    kinds: Sequence[str] = SCENE_KINDS,
    processes: int | None = None,
    reporter: Reporter = SILENT,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Render the scenes `seed`, `seed + 1`, … as a dataset folder, which appears when it is complete.

    The same arguments give the same files with any number of processes.

    Args:
        look: one of the renderer's LOOKS.
        size: the images' side in pixels, at least 8.
        kinds: kinds of condition among SCENE_KINDS.
        processes: the number of processes, at most 8; by default one per processor.
        reporter: gets (scenes done, of how many).
        finish: called with the folder before it appears, to add to it.

    Raises:
        SceditError: an argument is out of range or unknown, or the folder `out` is not empty.
    """
    if count < 1 or seed < 0 or size < 8:
        raise SceditError(
            f"{count} scenes from seed {seed} at {size} pixels", hint="at least 1 scene, seed 0, 8 pixels"
        )
    if look not in LOOKS:
        raise SceditError(f"look is {look!r}", hint=f"choose one of {', '.join(LOOKS)}")
    if unknown := set(kinds) - set(SCENE_KINDS):
        raise SceditError(f"scenes have no {', '.join(sorted(unknown))}", hint=f"they have {', '.join(SCENE_KINDS)}")
    processes = min(processes or os.cpu_count() or 1, 8)
    chunks = [range(at, min(at + _CHUNK, count)) for at in range(0, count, _CHUNK)]
    with whole_folder(out) as folder:
        for kind_folder in ("images", *(f"conditions/{kind}" for kind in kinds)):
            (folder / kind_folder).mkdir(parents=True)
        work = partial(_write_chunk, folder=folder, seed=seed, look=look, size=size, kinds=tuple(kinds))
        rows: list[dict[str, str]] = []
        if processes == 1 or count <= _ALONE:
            _collect(map(work, chunks), rows, count, reporter)
        else:
            # Processes are spawned: a fork of a process in which PyTorch or OpenCV has threads can deadlock.
            with starting():
                pool = get_context("spawn").Pool(min(processes, len(chunks)), initializer=serve_parent)
            with pool:
                _collect(pool.imap(work, chunks), rows, count, reporter)
        write_rows(folder, rows)
        if finish:
            finish(folder)


def _collect(
    parts: Iterable[list[dict[str, str]]],
    rows: list[dict[str, str]],
    count: int,
    reporter: Reporter,
) -> None:
    for part in parts:
        rows += part
        reporter.progress(len(rows), count)


def _write_chunk(
    indices: range, folder: Path, seed: int, look: str, size: int, kinds: tuple[str, ...]
) -> list[dict[str, str]]:
    """Write the images of some scenes and return their metadata rows."""
    rows = []
    for index in indices:
        made, name = example(seed + index, kinds, size, look), f"{index:06d}.png"
        save_image(made.image, folder / "images" / name)
        for kind, image in made.conditions.items():
            save_image(image, folder / "conditions" / kind / name)
        rows.append(row_of(name, made.text, kinds))
    return rows
