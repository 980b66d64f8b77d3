"""Depth, near is white: of scenes of the embedded world, by its reader."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.kind import Kind, Pictures
from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import DEPTH_FAR, DEPTH_NEAR, depth_to_picture, picture_to_depth


def scene_depth(pictures: Pictures) -> list[Image.Image]:
    """Mode L: 255 at 2 m falling linearly to 1 at 16 m and beyond, 0 for the sky."""
    return [Image.fromarray(depth_to_picture(reading.depth)) for reading in read(pictures)]


def depth_agreement(pictures: Pictures, conditions: Pictures) -> list[float]:
    """1 - mean |d - d*| / d* over all pixels (the absolute relative difference of Eigen, Puhrsch and Fergus, NeurIPS
    2014), d* the condition's depth, both limited to what its picture can show, the sky at the far end."""
    scores = []
    for reading, condition in zip(read(pictures), conditions, strict=True):
        wanted = np.clip(picture_to_depth(np.asarray(condition.convert("L"))), DEPTH_NEAR, DEPTH_FAR)
        found = np.clip(reading.depth, DEPTH_NEAR, DEPTH_FAR)
        scores.append(float(np.clip(1 - (np.abs(found - wanted) / wanted).mean(), 0, 1)))
    return scores


KIND = Kind("depth", annotators={"scene": scene_depth}, consistency=depth_agreement)
