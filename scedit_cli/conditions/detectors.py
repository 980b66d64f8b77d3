"""controlnet_aux's detectors, one at a time, at ControlNet's resolution and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.quiet import silent
from scedit_cli.conditions.registry import Make, Parameters


class Detection(Parameters):
    """`resolution` is the picture's shorter side in pixels as the network sees it, rounded to a multiple of 64. 512 is
    what ControlNets were trained with."""

    resolution: int = Field(512, ge=64, le=4096)


@cache
def detector(name: str) -> ModuleType:
    """controlnet_aux's module `name`, alone.

    Importing controlnet_aux imports every one of its models, with a page of warnings. So the one module is loaded as
    part of a private package of the same files.
    """
    package = ModuleType("_scedit_controlnet_aux")
    package.__path__ = list(find_spec("controlnet_aux").submodule_search_locations)
    sys.modules.setdefault(package.__name__, package)
    with silent():
        return import_module(f"{package.__name__}.{name}")


def detected(detect: Callable[..., np.ndarray], resolution: int, binary: bool = False) -> Make:
    """One of controlnet_aux's detectors as a function from pictures to pictures of their sizes.

    Args:
        detect: takes uint8 (H, W, 3) and gives uint8 (h, w, 3), both sides multiples of 64.
        resolution: of `Detection`.
        binary: black and white, so that resizing must not leave grays.
    """

    def one(picture: Image.Image) -> Image.Image:
        options = {"detect_resolution": resolution, "image_resolution": resolution, "output_type": "np"}
        made = fitted(Image.fromarray(detect(np.asarray(picture), **options)), picture.size)
        return made.point(lambda value: 255 * (value > 127)) if binary else made

    return lambda pictures: [one(picture) for picture in pictures]


def fitted(made: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A condition picture resized to `size` (width, height), unless it is of that size."""
    return made if made.size == size else made.resize(size, Image.Resampling.BILINEAR)
