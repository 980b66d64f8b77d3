"""A coarse palette: colours in their places, without shapes (as T2I-Adapter's spatial palette, arXiv 2302.08453)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.color import delta_e
from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters

CELLS = 8  # along the shorter side


class Grid(Parameters):
    """`cells` is the number of cells along the shorter side."""

    cells: int = Field(CELLS, ge=1)


def palette(parameters: Grid, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws images as square cells in the mean sRGB colour of their areas."""
    cells = parameters.cells
    return lambda images: [coarse(each, cells).resize(each.size, Image.Resampling.NEAREST) for each in images]


def coarse(image: Image.Image, cells: int) -> Image.Image:
    """Return the image with one pixel per cell, `cells` along its shorter side."""
    shorter = min(image.size)
    cells = min(cells, shorter)
    return image.resize([round(side * cells / shorter) for side in image.size], Image.Resampling.BOX)


def _difference(found: Image.Image, wanted: Image.Image) -> Figures:
    return {"delta_e": delta_e(*(np.asarray(coarse(each.convert("RGB"), CELLS)) for each in (found, wanted)))}


PALETTE = Measure(_difference, lambda figures: min(max(1 - figures["delta_e"] / 100, 0.0), 1.0))
KIND = Kind("color", (Annotator("color", "palette", "Pillow", palette, licence="MIT-CMU", parameters=Grid),), PALETTE)
