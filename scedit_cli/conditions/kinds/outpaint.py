"""A part of the picture, for painting what is around it: RGBA, what is missing black and transparent."""

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
    """`side` is where the picture ends too early, `share` how much of its width or height is missing there; of "all"
    and "random" sides, each loses up to half of that. `seed` and the picture together decide what is random."""

    side: Literal["random", "all", "left", "right", "top", "bottom"] = "random"
    share: float = Field(0.4, gt=0, lt=1)
    seed: int = Field(0, ge=0)


def bordered(parameters: Border, weights: Path | None = None, device: str = "cpu") -> Make:
    """Mode RGBA."""

    def one(picture: Image.Image) -> Image.Image:
        left, right, top, bottom = (_shares(parameters, image_rng(picture, parameters.seed))[side] for side in _SIDES)
        wide, high = picture.size
        hole = np.ones((high, wide), bool)
        hole[round(top * high) : high - round(bottom * high), round(left * wide) : wide - round(right * wide)] = False
        return with_hole(picture, hole)

    return lambda pictures: [one(picture) for picture in pictures]


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
