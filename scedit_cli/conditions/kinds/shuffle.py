"""An image's colours and textures without their places (ControlNet 1.1's content shuffle)."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.consistency.color import COLOURS
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters


class Flow(Parameters):
    """`scale` is the distance in pixels over which the flow changes direction. `seed` and the image together determine
    the flow."""

    scale: int = Field(256, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)


def shuffled(parameters: Flow, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that takes every pixel from the place to which a smooth random flow points, in mode RGB."""

    def one(image: Image.Image) -> Image.Image:
        import cv2

        # RandomState draws as NumPy's global generator, so that a seed gives the image of controlnet_aux's detector.
        rng = np.random.RandomState(parameters.seed ^ zlib.crc32(image.tobytes()))
        wide, high = image.size
        x = _smooth(rng, wide, high, parameters.scale) * (wide - 1)
        y = _smooth(rng, wide, high, parameters.scale) * (high - 1)
        return Image.fromarray(
            cv2.remap(np.asarray(image), np.dstack((x, y)).astype(np.float32), None, cv2.INTER_LINEAR)
        )

    return lambda images: [one(image) for image in images]


def _smooth(rng: np.random.RandomState, wide: int, high: int, scale: int) -> np.ndarray:
    """Return smooth noise (high, wide), scaled to reach both ends of [0, 1]."""
    import cv2

    noise = rng.uniform(size=(high // scale + 2, wide // scale + 2))
    noise = cv2.resize(noise, (wide + 2 * scale, high + 2 * scale), interpolation=cv2.INTER_CUBIC)
    noise = noise[scale : scale + high, scale : scale + wide]
    noise = noise - noise.min()
    return noise / (noise.max() or 1)


KIND = Kind("shuffle", (Annotator("shuffle", "flow", "OpenCV", shuffled, parameters=Flow),), COLOURS)
