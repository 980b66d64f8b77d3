"""Small, degraded copies of images, enlarged again, for super-resolution (as ControlNet's tile; the degradation follows
Real-ESRGAN, Wang et al., ICCVW 2021)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.structure import LIKENESS
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.rng import image_rng


class Wear(Parameters):
    """The copy is `factor` times smaller, with Gaussian `noise` (its deviation, in steps of 8-bit intensity), saved as
    a JPEG of `quality` (100: not saved as one). `seed` and the image together determine the noise."""

    factor: float = Field(8.0, ge=1)
    noise: float = Field(0.0, ge=0)
    quality: int = Field(100, ge=1, le=100)
    seed: int = Field(0, ge=0)


def worn(parameters: Wear, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that degrades images, in mode RGB."""

    def one(image: Image.Image) -> Image.Image:
        small = image.resize([max(round(side / parameters.factor), 1) for side in image.size], Image.Resampling.BOX)
        if parameters.noise:
            noise = image_rng(image, parameters.seed).normal(0, parameters.noise, (*small.size[::-1], 3))
            small = Image.fromarray(np.clip(np.rint(np.asarray(small) + noise), 0, 255).astype(np.uint8))
        if parameters.quality < 100:
            file = io.BytesIO()
            small.save(file, "JPEG", quality=parameters.quality)
            small = Image.open(file)
        return small.resize(image.size, Image.Resampling.BICUBIC)

    return lambda images: [one(image) for image in images]


KIND = Kind("tile", (Annotator("tile", "degraded", "Pillow", worn, licence="MIT-CMU", parameters=Wear),), LIKENESS)
