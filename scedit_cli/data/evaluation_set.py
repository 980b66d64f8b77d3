"""The images that tuners are evaluated on: a dataset's, with condition images from files or made where they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.annotation import made, recorded_maker
from scedit_cli.data.dataset import Dataset, Item, Size
from scedit_cli.data.digests import digests
from scedit_cli.data.hints import open_condition_image
from scedit_cli.data.image_cache import ImageCache, key_of
from scedit_cli.data.images import image_size, open_image
from scedit_cli.utils.errors import SceditError, reason

_THREADS = 4


@dataclass(frozen=True)
class EvaluationSet:
    """Some images of a dataset with their conditions of some kinds.

    Attributes:
        numbers: the images' places in the dataset, from which their seeds follow.
        specs: by kind, the spec that makes the condition images which have no file, and that measures where a file does
            not record its own.
        device: PyTorch's name of the device of annotators.
    """

    dataset: Dataset
    numbers: tuple[int, ...]
    specs: Mapping[str, AnnotationSpec]
    device: str = "cpu"
    cache: ImageCache = field(default_factory=lambda: ImageCache(None))

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def items(self) -> list[Item]:
        return [self.dataset.items[number] for number in self.numbers]

    @cached_property
    def sizes(self) -> list[Size]:
        return [self.dataset.sizes[number] for number in self.numbers]

    @cached_property
    def digests(self) -> list[str]:
        """The digest of each image's file."""
        memo = self.dataset.path / "cache" / "contents.json"
        try:
            every = digests(self.dataset.path, [item.image for item in self.dataset.items], memo)
        except SceditError:  # the folder cannot be written to
            from scedit_cli.data.annotation import digest_of

            return [digest_of(item.image)[:32] for item in self.items]
        return [every[number] for number in self.numbers]

    def check_files(self) -> None:
        """Raise SceditError if a condition image has another size than its image, or an image another than its line
        says."""
        with ThreadPoolExecutor(_THREADS) as pool:
            images = [item.image for item in self.items]
            for item, size, found in zip(self.items, self.sizes, pool.map(image_size, images), strict=True):
                if found != size:
                    raise _of_other_size(item, found)
            for kind in self.specs:
                having = [(item, size) for item, size in zip(self.items, self.sizes, strict=True)
                          if kind in item.conditions]  # fmt: skip
                files = [item.conditions[kind] for item, _ in having]
                for (item, size), found in zip(having, pool.map(image_size, files), strict=True):
                    if found != size:
                        raise SceditError(
                            f"{item.conditions[kind]} is {found[0]}x{found[1]} pixels, its image {size[0]}x{size[1]}",
                            hint=f"`annotate({self.dataset.path}, kinds={kind}, overwrite=True)` makes it again",
                        )

    def images(self, places: Sequence[int]) -> list[Image.Image]:
        """Return the images at these places of the set.

        Raises:
            SceditError: a file is no image, or has another size than its line says.
        """
        items = [self.items[place] for place in places]
        opened = [open_image(item.image) for item in items]
        for place, item, image in zip(places, items, opened, strict=True):
            if image.size != self.sizes[place]:
                raise _of_other_size(item, image.size)
        return opened

    def makers(self, kind: str, places: Sequence[int]) -> list[AnnotationSpec]:
        """Return the specs that made the condition images, without ranges."""
        return [self._recorded[kind][place] or self.specs[kind] for place in places]

    def conditions(self, kind: str, places: Sequence[int]) -> list[Image.Image]:
        """Return the condition images of one size; those without a file are made, once for all calls.

        Raises:
            SceditError: a file is no image, or an annotator fails or lacks its weights.
        """
        found = {}
        lacking = [place for place in places if kind not in self.items[place].conditions]
        for place in places:
            if place not in lacking:
                found[place] = open_condition_image(self.items[place].conditions[kind], kind)
        if lacking:
            found |= dict(zip(lacking, self._made(kind, lacking), strict=True))
        return [found[place] for place in places]

    def key(self, kind: str, place: int) -> str:
        """Return what the condition image depends on."""
        file = self.items[place].conditions.get(kind)
        if file is None:
            return f"{self.digests[place]} by {self.specs[kind]}"
        stat = file.stat()
        return f"{file} {stat.st_size} {stat.st_mtime_ns}"

    def _made(self, kind: str, places: list[int]) -> list[Image.Image]:
        key = key_of(made=[self.key(kind, place) for place in places])
        kept = self.cache.find(key, len(places))
        if kept is None:
            spec = self.specs[kind]
            kept = made(spec.load(spec.settings(""), self.device), self.images(places))
            for place, one in zip(places, kept, strict=True):
                if isinstance(one, Exception):
                    image = self.items[place].image
                    raise SceditError(f"{kind} cannot be made of {image}: {reason(one)}", "leave it out") from one
            self.cache.keep(key, kept)
        return kept

    @cached_property
    def _recorded(self) -> dict[str, list[AnnotationSpec | None]]:
        def maker(file: Path | None, spec: AnnotationSpec) -> AnnotationSpec | None:
            found = recorded_maker(file, spec.kind) if file else None
            return found and replace(found, weights=spec.weights)

        with ThreadPoolExecutor(_THREADS) as pool:
            return {
                kind: list(pool.map(lambda item, spec=spec: maker(item.conditions.get(spec.kind), spec), self.items))
                for kind, spec in self.specs.items()
            }


def _of_other_size(item: Item, size: Size) -> SceditError:
    message = f"{item.image} is {size[0]}x{size[1]} pixels, not as its line in metadata.jsonl says"
    return SceditError(message, "correct width and height there, or prepare the images again")


def evaluation_set(
    dataset: Dataset,
    kinds: Sequence[str],
    *,
    scenes: bool = False,
    most: int | None = None,
    numbers: Sequence[int] | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    cache: ImageCache | None = None,
    specs: Mapping[str, AnnotationSpec] | None = None,
) -> EvaluationSet:
    """Return the images of a dataset with conditions of `kinds`.

    Args:
        scenes: whether the images show the embedded world, whose own annotators then make and read depth and the like.
        most: the most images; a fixed random choice where the dataset has more.
        numbers: the images' places in the dataset; all by default.
        weights: a folder with local copies of the annotators' weights.
        device: PyTorch's name of the device of annotators.
        cache: the cache of made condition images.
        specs: specs in place of each kind's usual one.
    """
    chosen = list(range(len(dataset)) if numbers is None else numbers)
    if most is not None and most < len(chosen) and not scenes:
        chosen = sorted(np.random.default_rng(0).permutation(chosen)[:most].tolist())
    given, specs = specs or {}, {}
    for kind in kinds:
        annotator = conditions.find(kind).annotator(conditions.scene_annotator(kind) if scenes else None)
        specs[kind] = given.get(kind) or AnnotationSpec(kind, annotator.name, weights=weights)
    return EvaluationSet(dataset, tuple(chosen[:most]), specs, device, cache or ImageCache(None))
