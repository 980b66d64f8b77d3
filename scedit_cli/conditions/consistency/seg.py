"""Segmentation of the embedded world's scenes: intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import picture_to_classes


def mean_iou(pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> list[float]:
    """Mean intersection over union (Long, Shelhamer and Darrell, CVPR 2015) of the classes present in either."""
    scores = []
    for reading, condition in zip(read(pictures), conditions, strict=True):
        found, wanted = reading.segmentation, picture_to_classes(np.asarray(condition))
        present = np.union1d(found, wanted)
        ious = [((found == c) & (wanted == c)).sum() / ((found == c) | (wanted == c)).sum() for c in present]
        scores.append(float(np.mean(ious)))
    return scores
