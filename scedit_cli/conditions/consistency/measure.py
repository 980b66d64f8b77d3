"""The measure of how well an image follows a condition image: figures in their own units, and a consistency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

Figures = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """One way to compare an image with a condition image.

    Attributes:
        figures: maps (found, wanted), two images of one size of which `wanted` is the condition image, to named
            figures in their own units.
        consistency: maps these figures to [0, 1]; 1 means that the condition is followed fully.
        annotates: whether `found` is the condition image of the image in question, else it is that image itself.
    """

    figures: Callable[[Image.Image, Image.Image], Figures]
    consistency: Callable[[Mapping[str, float]], float]
    annotates: bool = True

    def compare(self, found: Image.Image, wanted: Image.Image) -> Figures:
        """Return the figures, with "consistency" before them."""
        figures = self.figures(found, wanted)
        return {"consistency": float(self.consistency(figures)), **figures}
