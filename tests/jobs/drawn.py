"""Reading and comparing the pictures that `generate` draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(path: str | Path) -> np.ndarray:
    """(H, W, 3), signed, so that differences are themselves."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def same(one: str | Path, other: str | Path) -> bool:
    return np.array_equal(pixels(one), pixels(other))


def near(one: str | Path, other: str | Path) -> bool:
    """To one level of rounding."""
    return np.abs(pixels(one) - pixels(other)).max() <= 1


def settings(path: str | Path) -> dict:
    """What a PNG says of how it was made."""
    return json.loads(Image.open(path).text["scedit"])
