"""Condition images as hints: read from disk and kept in memory where they fit, or made on demand."""

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

from scedit_cli.conditions import channels_of, find, kind_named
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.arrays import planes, stacked, unit
from scedit_cli.data.images import check_still, decode, name_of, open_image, reading
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import condition_image

_IN_MEMORY = 2**30  # bytes; larger sets are read from disk batch by batch
# Kind -> the largest maximum (of 255) in 8- and in 16-bit files at which an image is refused as holding other numbers,
# what these are, and the advice. For 8-bit depth it is low: millimetres need 16 bits, and far scenes are dark.
_NUMBERS = {
    "depth": (15, 63, "distances", "make the nearest white, 255, and the farthest black"),
    "seg": (63, 63, "numbers of classes", "save each class in a colour of its own"),
    "mask": (1, 1, "zeros and ones", "save ones as 255"),
}


class Hints:
    """The condition images of one kind. `hints[indices]` is uint8 (B, C, H, W), for images of one size.

    Args:
        paths: one image per index, none larger than `size` (width, height).
        in_memory: the most bytes to keep in memory; larger sets are read on demand.
        channels: C: 3, or 4 where the images' alpha counts.
        read: reads an image as uint8 (C, H, W); by default `read_uint8`.
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
        """Return float32 (B, C, H, W) in [0, 1], the same at every step."""
        return unit(self[indices])


class MadeHints:
    """Condition images that are made from the images themselves, again at every step.

    Settings for which the spec gives ranges are drawn for each image at each step, and so is the annotator's `seed`
    unless the spec fixes it: an image never has the same hole twice.

    Args:
        images: the images' files, none larger than `size` (width, height).
        spec: the spec, of an annotator that needs no weights.
    """

    def __init__(self, images: Sequence[Path], size: tuple[int, int], spec: AnnotationSpec) -> None:
        self.spec = spec.with_drawn_seed()
        self._pictures = Hints(images, size, read=read_photograph)

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, indices: list[int], step: int) -> Tensor:
        """Return float32 (B, C, H, W) in [0, 1], a function of the spec's seed, the images and the step."""
        images = self._pictures[indices].permute(0, 2, 3, 1).numpy()
        names = [f"{self._pictures.paths[index].name} {step}" for index in indices]
        return stacked([made_hint(self.spec, *each) for each in zip(names, images, strict=True)])


def made_hint(spec: AnnotationSpec, name: str, image: np.ndarray) -> Tensor:
    """Return the hint, float32 (C, H, W) in [0, 1], that `spec` makes from `image`, uint8 (H, W, 3),
    with the settings that are drawn for `name`."""
    [made] = spec.load(spec.settings(name))([Image.fromarray(image)])
    return torch.from_numpy(np.array(find(spec.kind).hint(made)))


def read_uint8(path: Path, channels: int = 3) -> Tensor:
    """Read the condition image at `path` as uint8 (channels, H, W); the fourth channel is alpha.

    Raises:
        SceditError: there is no readable image, or its transparency leaves nothing of it.
    """
    return planes(np.asarray(_opened(path, channels)))


def read_photograph(path: Path) -> Tensor:
    """Read the training image at `path` as uint8 (3, H, W).

    Raises:
        SceditError: there is no readable image.
    """
    return planes(np.asarray(open_image(path)))


def open_condition_image(path: Path, kind: str) -> Image.Image:
    """Read a dataset's condition image in mode RGB, or RGBA where the kind's alpha counts.

    Raises:
        SceditError: as `read_uint8`.
    """
    return _opened(path, channels_of(kind))


def open_given_condition(source: Path | Image.Image, kind: str) -> Image.Image:
    """Read a condition image in a file or in memory as `open_condition_image` does, and check its levels, as a user's
    own image requires.

    Raises:
        SceditError: as `read_uint8` and `check_levels`.
    """
    return _opened(source, channels_of(kind), kind)


def doubts(paths: Sequence[Path], kind: str) -> list[str]:
    """Return a sentence for each of a dataset's condition images that does not look like one of its kind.

    Raises:
        SceditError: as `read_uint8`.
    """
    found = [(path.name, kind_named(kind).doubt(open_condition_image(path, kind))) for path in paths]
    return [f"{kind} image {name} {doubt}" for name, doubt in found if doubt]


def check_levels(opened: Image.Image, kind: str, name: str) -> None:
    """Check that a condition image, in the mode of its file, holds levels and not other numbers, which look black:
    distances, class numbers, zeros and ones. An all black image passes, since it marks nothing, and so does one with
    colours.

    Raises:
        SceditError: the image is nearly black, and gray.
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


def _opened(source: Path | Image.Image, channels: int, unchecked: str = "") -> Image.Image:
    """Read a condition image; if `unchecked` names a kind, check its levels first."""
    with reading(source) as opened:
        check_still(opened, name_of(source))
        image = decode(opened)
        check_levels(opened, unchecked, name_of(source))
        return condition_image(image, channels, name_of(source))
