"""Parts of images, for outpainting: RGBA, the missing borders black and transparent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.structure import KEPT_PART
from scedit_cli.conditions.inpaint_masks import with_hole
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.rng import image_rng

_SIDES = ("left", "right", "top", "bottom")


class Border(Parameters):
    """`side` is the side at which a border is missing, `share` the border's share of the width or height. With "all",
    every side loses half of `share`; with "random", up to half. `seed` and the image together determine what is random.
    """

    side: Literal["random", "all", "left", "right", "top", "bottom"] = "random"
    share: float = Field(0.4, gt=0, lt=1)
    seed: int = Field(0, ge=0)


def bordered(parameters: Border, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that removes images' borders, in mode RGBA."""

    def one(image: Image.Image) -> Image.Image:
        left, right, top, bottom = (_shares(parameters, image_rng(image, parameters.seed))[side] for side in _SIDES)
        wide, high = image.size
        hole = np.ones((high, wide), bool)
        hole[round(top * high) : high - round(bottom * high), round(left * wide) : wide - round(right * wide)] = False
        return with_hole(image, hole)

    return lambda images: [one(image) for image in images]


def _shares(parameters: Border, rng: np.random.Generator) -> dict[str, float]:
    if parameters.side == "all":
        return dict.fromkeys(_SIDES, parameters.share / 2)
    if parameters.side == "random":
        return dict(zip(_SIDES, rng.uniform(0, parameters.share / 2, 4), strict=True))
    return dict.fromkeys(_SIDES, 0.0) | {parameters.side: parameters.share}


KIND = Kind(
    "outpaint",
    (Annotator("outpaint", "border", "NumPy", bordered, licence="BSD-3-Clause", parameters=Border),),
    KEPT_PART,
    channels=4,
)
