"""Batching by size, for networks that take images of one size at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from PIL import Image

Made = TypeVar("Made")


def by_size(
    make: Callable[[list[Image.Image]], Sequence[Made]],
) -> Callable[[Sequence[Image.Image]], list[Made]]:
    """Extend `make`, which takes images of one size, to images of any sizes; results keep the images' order."""

    def made(images: Sequence[Image.Image]) -> list[Made]:
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            alike[image.size].append(index)
        results: dict[int, Made] = {}
        for indices in alike.values():
            results |= zip(indices, make([images[index] for index in indices]), strict=True)
        return [results[index] for index in range(len(images))]

    return made
