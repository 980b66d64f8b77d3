"""Depth of the embedded world's scenes: the relative difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import DEPTH_FAR, DEPTH_NEAR, picture_to_depth


def depth_agreement(pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> list[float]:
    """1 - mean |d - d*| / d* over all pixels (the absolute relative difference of Eigen, Puhrsch and Fergus, NeurIPS
    2014), d* the condition's depth, both limited to what its picture can show, the sky at the far end."""
    scores = []
    for reading, condition in zip(read(pictures), conditions, strict=True):
        wanted = np.clip(picture_to_depth(np.asarray(condition.convert("L"))), DEPTH_NEAR, DEPTH_FAR)
        found = np.clip(reading.depth, DEPTH_NEAR, DEPTH_FAR)
        scores.append(float(np.clip(1 - (np.abs(found - wanted) / wanted).mean(), 0, 1)))
    return scores
