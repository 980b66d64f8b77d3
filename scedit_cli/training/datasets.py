"""The images that a run trains on and shows: a dataset folder, or scenes rendered once and cached for later runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from scedit_cli.conditions.kinds import canny, color
from scedit_cli.data import scenes
from scedit_cli.data.annotation import recorded_maker
from scedit_cli.data.dataset import Dataset, open_dataset
from scedit_cli.data.hints import open_condition_image
from scedit_cli.data.images import open_image
from scedit_cli.data.shard_dataset import FIRST, ShardDataset
from scedit_cli.inference.sampler import check_size
from scedit_cli.models.base import Base
from scedit_cli.scenes import HELD_OUT_SEED, IMAGE_SIZE, captions, encodings, layout, render, scene, shapes
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import discard, expanded
from scedit_cli.utils.reporter import SILENT, Reporter

_READING = 2  # raised when samples are read differently from those cached by earlier versions


def check_dataset(dataset: Dataset, base: Base, kinds: Sequence[str]) -> None:
    """Raise SceditError if images or condition images are missing or have sizes that `base` cannot train on."""
    for width, height in dataset.buckets:
        check_size(base, height, width, f"{dataset.path}: an image")
    for kind in kinds:
        dataset.condition_paths(kind)


def rendered_scenes(
    count: int, seed: int, look: str, kinds: Sequence[str], reporter: Reporter = SILENT, size: int = IMAGE_SIZE
) -> Dataset:
    """Return the dataset of the `count` scenes from number `seed` on, `size` pixels wide and high, rendered unless the
    cache already holds it. It has those of `kinds` that scenes come with; others can be made from its images.

    Raises:
        SceditError: the cache folder cannot be written to; SCEDIT_CACHE names another.
    """
    kinds = [kind for kind in kinds if kind in scenes.SCENE_KINDS]
    name = "-".join((*kinds, look, f"{seed}+{count}", *([] if size == IMAGE_SIZE else [f"{size}px"]), _renderer()))
    folder = cache_folder() / "scenes" / name
    was_there = folder.exists()
    try:
        dataset = open_dataset(folder)
        if len(dataset) == count:
            return dataset
    except SceditError:  # the folder is missing, or files were removed from it
        pass
    try:
        if was_there:  # a folder that appeared since comes whole from another run
            discard(folder)
        scenes.write_scenes(folder, count, seed, look, size=size, kinds=kinds, reporter=reporter)
    except (OSError, SceditError):
        if not (folder / "metadata.jsonl").is_file():  # otherwise another run finished the same scenes first
            raise
    return open_dataset(folder)


def first_of(shards: ShardDataset, count: int) -> Dataset:
    """Return the first `count` images of `shards`, cached for later runs.

    Raises:
        SceditError: no image can be used, or the cache folder cannot be written to; SCEDIT_CACHE names another.
    """
    # Tar files are padded: rewritten shards may keep their names, sizes and counts, so the time of writing counts too.
    version = hashlib.sha256(json.dumps([shards.fingerprint, shards.written, count, _READING]).encode()).hexdigest()
    folder = cache_folder() / "streams" / version[:32]
    if was_there := folder.exists():
        with suppress(SceditError):  # files were removed from the folder
            return open_dataset(folder)
    try:
        if was_there:  # a folder that appeared since comes whole from another run
            discard(folder)
        shards.write_first(folder, count)
    except (OSError, SceditError):
        if not (folder / FIRST).is_file():  # otherwise another run finished the same shards first
            raise
    return open_dataset(folder)


def held_out_scenes(
    count: int, seed: int, kinds: Sequence[str], size: int, look: str = "plain"
) -> list[scenes.Example]:
    """Return `count` scenes of `size` x `size` pixels, counted from `seed`, that no run trains on."""
    return [scenes.example(HELD_OUT_SEED + seed + number, kinds, size, look) for number in range(count)]


def first_images(dataset: Dataset, count: int, kinds: Sequence[str]) -> list[scenes.Example]:
    """Return the first `count` images (or all, if fewer) that have the most frequent size of a dataset folder."""
    alike = [item for item, size in zip(dataset.items, dataset.sizes, strict=True) if size == dataset.buckets[0]]
    shown = []
    for item in alike[:count]:
        files = {kind: item.conditions[kind] for kind in kinds}
        images = {kind: open_condition_image(file, kind) for kind, file in files.items()}
        makers = {kind: maker for kind, file in files.items() if (maker := recorded_maker(file, kind))}
        shown.append(scenes.Example(open_image(item.image), item.text, images, makers))
    return shown


def cache_folder() -> Path:
    """Return the cache folder: $SCEDIT_CACHE, else `scedit` in the user's cache folder."""
    if own := os.environ.get("SCEDIT_CACHE"):
        return expanded(own)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "scedit"


@cache
def _renderer() -> str:
    """Return a digest of the code that makes scenes: when the code changes, scenes are rendered again."""
    modules = (captions, encodings, layout, render, scene, shapes, scenes, canny, color)
    files = [Path(module.__file__) for module in modules]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
