"""Depth: near is white, far is black."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.batching import by_size
from scedit_cli.conditions.consistency.depth import RELATIVE_DEPTH, SCENE_DEPTH
from scedit_cli.conditions.looks import Look
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.scene_reading import read
from scedit_cli.conditions.weights import pretrained
from scedit_cli.scenes.encodings import depth_to_image

_UNUSED = ("neck.fusion_stage.layers.0.residual_layer1.",)  # the first stage gets no residual; MiDaS' files lack these


class Relative(Parameters):
    """`bits` of the condition image: 8, or 16 for other tools. Training and generation read 8 of them."""

    bits: int = Field(8, ge=8, le=16, multiple_of=8)


def relative_depth(repository: str, parameters: Relative, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws the inverse depth of images, each stretched over its own range: the nearest pixel is
    white, the farthest black."""
    processor, network = _network(repository, weights, device)

    def make(images: list[Image.Image]) -> list[Image.Image]:
        import torch

        with torch.inference_mode():
            seen = network(**processor(images=images, return_tensors="pt").to(device))
            sizes = [image.size[::-1] for image in images]
            found = processor.post_process_depth_estimation(seen, target_sizes=sizes)
        return [stretched(each["predicted_depth"].cpu().numpy(), parameters.bits) for each in found]

    return by_size(make)


def stretched(inverse_depth: np.ndarray, bits: int = 8) -> Image.Image:
    """Return inverse depth (H, W), larger is nearer, as an image of mode L or I;16: the least value becomes 0, the
    largest white. Constant depth is black."""
    least, largest = float(inverse_depth.min()), float(inverse_depth.max())
    share = (inverse_depth.astype(np.float64) - least) / ((largest - least) or 1)
    return Image.fromarray(np.rint(share * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16))


@lru_cache(maxsize=1)
def _network(repository: str, weights: Path | None, device: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    processor = pretrained(AutoImageProcessor, repository, weights)
    return processor, pretrained(AutoModelForDepthEstimation, repository, weights, device, _UNUSED)


def scene_depth(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws the depth of embedded scenes, in mode L: 255 at 2 m, falling linearly to 1 at 16 m
    and beyond, 0 for the sky."""
    return lambda images: [Image.fromarray(depth_to_image(reading.depth)) for reading in read(images)]


def _annotator(name: str, repository: str, licence: str = "Apache-2.0", commercial: bool = True) -> Annotator:
    loader = partial(relative_depth, repository)
    return Annotator("depth", name, "transformers", loader, (repository,), licence, commercial, Relative)


KIND = Kind(
    "depth",
    (
        _annotator("depth-anything", "depth-anything/Depth-Anything-V2-Small-hf"),
        _annotator("depth-anything-base", "depth-anything/Depth-Anything-V2-Base-hf", "CC-BY-NC-4.0", False),
        _annotator("depth-anything-large", "depth-anything/Depth-Anything-V2-Large-hf", "CC-BY-NC-4.0", False),
        _annotator("midas", "Intel/dpt-hybrid-midas"),
        Annotator("depth", "scene", "scedit", scene_depth, measure=SCENE_DEPTH),
    ),
    RELATIVE_DEPTH,
    look=Look(gray=True),
)
