"""Detectors of controlnet_aux, imported one at a time and run at the resolution that ControlNets were trained with."""

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
    """`resolution` is the shorter side in pixels of the image that the network sees, rounded to a multiple of 64.
    ControlNets were trained with 512."""

    resolution: int = Field(512, ge=64, le=4096)


@cache
def detector(name: str) -> ModuleType:
    """Import controlnet_aux's module `name` alone.

    Importing controlnet_aux itself imports all of its models, with many warnings. So the module is loaded as a part of
    a private package with the same files.
    """
    package = ModuleType("_scedit_controlnet_aux")
    package.__path__ = list(find_spec("controlnet_aux").submodule_search_locations)
    sys.modules.setdefault(package.__name__, package)
    with silent():
        return import_module(f"{package.__name__}.{name}")


def detected(detect: Callable[..., np.ndarray], resolution: int, binary: bool = False) -> Make:
    """Turn a detector of controlnet_aux into a function from images to condition images of the same sizes.

    Args:
        detect: takes uint8 (H, W, 3) and returns uint8 (h, w, 3), both sides multiples of 64.
        resolution: as in `Detection`.
        binary: whether condition images are black and white, so that grays from resizing are cut at one half.
    """

    def one(image: Image.Image) -> Image.Image:
        options = {"detect_resolution": resolution, "image_resolution": resolution, "output_type": "np"}
        made = fitted(Image.fromarray(detect(np.asarray(image), **options)), image.size)
        return made.point(lambda value: 255 * (value > 127)) if binary else made

    return lambda images: [one(image) for image in images]


def fitted(made: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a condition image to `size` (width, height) where it has another size."""
    return made if made.size == size else made.resize(size, Image.Resampling.BILINEAR)
