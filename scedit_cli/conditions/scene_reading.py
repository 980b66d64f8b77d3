"""The embedded world's reader for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from scedit_cli.conditions.batching import by_size

_SIDE = 128  # the side in pixels of the images that the reader was trained on


@dataclass(frozen=True)
class SceneReading:
    """The reader's maps of one image of H x W: `depth` float32 (H, W) in metres, inf for the sky; `normals` float32
    (H, W, 3), unit, 0 for the sky; `segmentation` uint8 (H, W), an index into SEG_CLASSES."""

    depth: np.ndarray
    normals: np.ndarray
    segmentation: np.ndarray


def read(images: Sequence[Image.Image]) -> list[SceneReading]:
    """Return the readings of RGB images, in their order. The reader sees an image resized to a shorter side of 128
    pixels, and its maps are resized back without blending (nearest neighbour)."""
    return by_size(_read_alike)(images)


def _read_alike(images: list[Image.Image]) -> list[SceneReading]:
    import torch
    from torch.nn.functional import interpolate

    from scedit_cli.scenes.reader import load_reader

    size = images[0].size
    inner = [round(side * _SIDE / min(size)) for side in size]
    fitted = np.stack([np.asarray(image.resize(inner, Image.Resampling.BICUBIC)) for image in images])
    seen = load_reader().read(torch.from_numpy(fitted).permute(0, 3, 1, 2) / 255)
    maps = torch.cat((seen.segmentation[:, None].float(), seen.depth[:, None], seen.normals), 1)
    maps = interpolate(maps, size=size[::-1], mode="nearest-exact").permute(0, 2, 3, 1).numpy()
    return [
        SceneReading(
            depth=each[..., 1],
            normals=np.where(each[..., :1] > 0, each[..., 2:], np.float32(0)),  # class 0 is the sky
            segmentation=each[..., 0].astype(np.uint8),
        )
        for each in maps
    ]
