"""How well a picture follows a condition picture: figures in their own units, and one of them as the consistency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

Figures = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """One way of comparing.

    Attributes:
        figures: of (found, wanted), two pictures of one size, the second the condition picture: named figures, each
            in its own unit.
        consistency: from these figures, in [0, 1], 1 where the condition is followed fully.
        annotates: `found` is the condition picture of the picture in question, else that picture itself.
    """

    figures: Callable[[Image.Image, Image.Image], Figures]
    consistency: Callable[[Mapping[str, float]], float]
    annotates: bool = True

    def compare(self, found: Image.Image, wanted: Image.Image) -> Figures:
        """The figures, `consistency` before them."""
        figures = self.figures(found, wanted)
        return {"consistency": float(self.consistency(figures)), **figures}
