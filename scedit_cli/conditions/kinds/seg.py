"""Semantic segmentation: of scenes of the embedded world, by its reader."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scedit_cli.conditions.kind import Kind, Pictures
from scedit_cli.conditions.scene_reading import read
from scedit_cli.scenes.encodings import classes_to_picture, picture_to_classes


def scene_segmentation(pictures: Pictures) -> list[Image.Image]:
    """Sky, floor and the four shapes, each in its colour of the embedded world's palette."""
    return [Image.fromarray(classes_to_picture(reading.segmentation)) for reading in read(pictures)]


def mean_iou(pictures: Pictures, conditions: Pictures) -> list[float]:
    """Mean intersection over union (Long, Shelhamer and Darrell, CVPR 2015) of the classes present in either."""
    scores = []
    for reading, condition in zip(read(pictures), conditions, strict=True):
        found, wanted = reading.segmentation, picture_to_classes(np.asarray(condition))
        present = np.union1d(found, wanted)
        ious = [((found == c) & (wanted == c)).sum() / ((found == c) | (wanted == c)).sum() for c in present]
        scores.append(float(np.mean(ious)))
    return scores


KIND = Kind("seg", annotators={"scene": scene_segmentation}, consistency=mean_iou, labels=True)
