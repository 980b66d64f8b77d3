"""Images with a hole, for inpainting: RGBA, the hole black and transparent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from scedit_cli.conditions.consistency.structure import KEPT_PART
from scedit_cli.conditions.inpaint_masks import HOLES, with_hole
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.rng import image_rng


class Holes(Parameters):
    """`mask` is the hole's shape; it takes a share of the image between `least` and `most`. `seed` and the image
    together determine the rest."""

    mask: Literal["random", "brush", "box", "object"] = "random"
    least: float = Field(0.1, gt=0, lt=1)
    most: float = Field(0.5, gt=0, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least is {self.least:g}, above most, which is {self.most:g}")
        return self


def holed(parameters: Holes, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that makes holes in images, in mode RGBA."""

    def one(image: Image.Image) -> Image.Image:
        rng = image_rng(image, parameters.seed)
        shape = rng.choice(list(HOLES)) if parameters.mask == "random" else parameters.mask
        return with_hole(image, HOLES[shape](np.asarray(image), parameters.least, parameters.most, rng))

    return lambda images: [one(image) for image in images]


KIND = Kind(
    "inpaint",
    (
        Annotator(
            "inpaint", "holes", "OpenCV, scikit-image", holed, licence="Apache-2.0, BSD-3-Clause", parameters=Holes
        ),
    ),
    KEPT_PART,
    channels=4,
)
