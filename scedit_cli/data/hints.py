"""Condition pictures as hints: read from disk and held in memory where they fit, or made when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scedit_cli.conditions import channels_of, find
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.arrays import planes, stacked, unit
from scedit_cli.data.images import decode, open_image, reading
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import condition_image

_IN_MEMORY = 2**30  # bytes; what is larger is read from disk batch by batch
# The largest level of 255, in files of 8 and of 16 bits, that is taken for a number of something else; which, and what
# to do then. Millimetres need 16 bits: of 8, a depth is dark where all is far.
_NUMBERS = {
    "depth": (15, 63, "distances", "make the nearest white, 255, and the farthest black"),
    "seg": (63, 63, "numbers of classes", "save each class in a colour of its own"),
    "mask": (1, 1, "zeros and ones", "save ones as 255"),
}


class Hints:
    """The condition pictures of one kind. `hints[indices]` is uint8 (B, C, H, W), of pictures of one size.

    Args:
        paths: one picture per index, none larger than `size` (width, height).
        in_memory: the most bytes to hold; larger sets are read when asked for.
        channels: C, 4 where the pictures' alpha counts.
        read: what reads a picture as uint8 (C, H, W); by default `read_uint8`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int],
        in_memory: int = _IN_MEMORY,
        channels: int = 3,
        read: Callable[[Path], Tensor] | None = None,
    ) -> None:
        self.paths = paths
        self._read = read or partial(read_uint8, channels=channels)
        self._held: list[Tensor] | None = None
        if len(paths) * channels * size[0] * size[1] <= in_memory:
            with ThreadPoolExecutor(4) as pool:
                self._held = list(pool.map(self._read, paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Tensor:
        if self._held is not None:
            return stacked([self._held[index] for index in indices])
        return stacked([self._read(self.paths[index]) for index in indices])

    def batch(self, indices: list[int], step: int) -> Tensor:
        """float32 (B, C, H, W) in [0, 1], the same at every step."""
        return unit(self[indices])


class MadeHints:
    """Condition pictures that are made of the pictures themselves, anew at every step.

    Settings that the order draws are drawn for each picture at each step, and so is an annotator's `seed` that the
    order leaves open: nobody sees the same hole in a picture twice.

    Args:
        pictures: their files, none larger than `size` (width, height).
        order: by an annotator that needs no weights.
    """

    def __init__(self, pictures: Sequence[Path], size: tuple[int, int], order: AnnotationSpec) -> None:
        self.order = order.with_drawn_seed()
        self._pictures = Hints(pictures, size, read=read_photograph)

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, indices: list[int], step: int) -> Tensor:
        """float32 (B, C, H, W) in [0, 1], a function of the order's seed, the pictures and the step."""
        pictures = self._pictures[indices].permute(0, 2, 3, 1).numpy()
        names = [f"{self._pictures.paths[index].name} {step}" for index in indices]
        return stacked([made_hint(self.order, *each) for each in zip(names, pictures, strict=True)])


def made_hint(order: AnnotationSpec, name: str, picture: np.ndarray) -> Tensor:
    """What `order` makes of a picture, uint8 (H, W, 3), with the settings that `name` draws: float32 (C, H, W) in
    [0, 1]."""
    [made] = order.load(order.settings(name))([Image.fromarray(picture)])
    return torch.from_numpy(np.array(find(order.kind).hint(made)))


def read_uint8(path: Path, channels: int = 3) -> Tensor:
    """The condition picture at `path` as uint8 (channels, H, W), the fourth its alpha.

    Raises:
        SceditError: no readable picture is there, or its transparency leaves nothing of it.
    """
    return planes(np.asarray(_opened(path, channels)))


def read_photograph(path: Path) -> Tensor:
    """The picture at `path` that is learned from, as uint8 (3, H, W).

    Raises:
        SceditError: no readable picture is there.
    """
    return planes(np.asarray(open_image(path)))


def open_condition_image(path: Path, kind: str) -> Image.Image:
    """A dataset's condition picture in mode RGB, or RGBA where the kind's alpha counts.

    Raises:
        SceditError: as `read_uint8`.
    """
    return _opened(path, channels_of(kind))


def open_given_condition(path: Path, kind: str) -> Image.Image:
    """As `open_condition_picture`, of a file that nothing has checked yet.

    Raises:
        SceditError: as `read_uint8` and `check_levels`.
    """
    return _opened(path, channels_of(kind), kind)


def check_levels(opened: Image.Image, kind: str, name: str) -> None:
    """Checks that a condition picture, in the mode of its file, holds levels and not other numbers, which look black:
    distances, the numbers of classes, zeros and ones. What is all black says that there is nothing, and what has
    colours holds no numbers.

    Raises:
        SceditError: it is nearly black, and gray.
    """
    if kind not in _NUMBERS:
        return
    shallow, deep, what, remedy = _NUMBERS[kind]
    if opened.mode.startswith("I;16"):
        level, most, bands = np.asarray(opened).max() / 257, deep, []
    else:
        bands = opened.convert("RGB").split()
        level, most = max(band.getextrema()[1] for band in bands), shallow
    if 0 < level <= most and all(band == bands[0] for band in bands):
        raise SceditError(f"{name} is nearly black, {ceil(level)} of 255 at most, as {what} are", remedy)


def _opened(path: Path, channels: int, unchecked: str = "") -> Image.Image:
    """`unchecked` is the kind whose levels are to be checked."""
    with reading(path, str(path)) as opened:
        picture = decode(opened)
        check_levels(opened, unchecked, str(path))
        return condition_image(picture, channels, str(path))
