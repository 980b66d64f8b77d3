"""Segmentation in a colour per class: ADE20K's 150 classes in the palette that ControlNets were trained with."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from scedit_cli.conditions.batching import by_size
from scedit_cli.conditions.consistency.seg import ADE20K, SCENE_CLASSES
from scedit_cli.conditions.detectors import detector
from scedit_cli.conditions.registry import Annotator, Kind, Make, Parameters
from scedit_cli.conditions.scene_reading import read
from scedit_cli.conditions.weights import pretrained
from scedit_cli.scenes.encodings import classes_to_image
from scedit_cli.utils.errors import SceditError

_POINTS = 64  # points in a batch


def semantic(
    model: str, repository: str, parameters: Parameters, weights: Path | None = None, device: str = "cpu"
) -> Make:
    """Return a function that draws pixels in their class's colour; `model` is the name of transformers' class."""
    processor, network = _network(model, repository, weights, device)
    options = {"task_inputs": ["semantic"]} if "OneFormer" in model else {}
    palette = np.array(detector("util").ade_palette(), np.uint8)
    if network.config.num_labels != len(palette):
        raise SceditError(
            f"{repository}: {network.config.num_labels} classes, and ADE20K has {len(palette)}",
            hint="give weights that were trained on ADE20K",
        )

    def make(images: list[Image.Image]) -> list[Image.Image]:
        import torch

        tasks = {name: value * len(images) for name, value in options.items()}
        with torch.inference_mode():
            seen = network(**processor(images=images, return_tensors="pt", **tasks).to(device))
            sizes = [image.size[::-1] for image in images]
            found = processor.post_process_semantic_segmentation(seen, target_sizes=sizes)
        return [Image.fromarray(palette[classes.cpu().numpy()]) for classes in found]

    return by_size(make)


@lru_cache(maxsize=1)
def _network(model: str, repository: str, weights: Path | None, device: str) -> tuple[Any, Any]:
    import transformers

    # OneFormer's class names, a file in another repository, are used in training only.
    kind, options = (
        (transformers.OneFormerProcessor, {"class_info_file": None})
        if "OneFormer" in model
        else (transformers.AutoImageProcessor, {})
    )
    processor = pretrained(kind, repository, weights, **options)
    return processor, pretrained(getattr(transformers, model), repository, weights, device)


class Points(Parameters):
    """SAM looks for objects at a grid with `points` per side. An object is kept if it has at least this `confidence`
    and `stability` (its mask hardly changes with the threshold) and if its box overlaps that of no better one by more
    than `overlap` (intersection over union)."""

    points: int = Field(32, ge=1, le=128)
    confidence: float = Field(0.88, ge=0, le=1)
    stability: float = Field(0.95, ge=0, le=1)
    overlap: float = Field(0.7, ge=0, le=1)


def everything(repository: str, parameters: Points, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that draws all objects that SAM detects (Kirillov et al., ICCV 2023), the largest first, in
    consecutive colours of the ADE20K palette, which do not stand for classes here; the rest is black."""
    generator = _generator(repository, weights, device)
    palette = np.array(detector("util").ade_palette(), np.uint8)
    options = {
        "points_per_crop": parameters.points,
        "points_per_batch": _POINTS,
        "pred_iou_thresh": parameters.confidence,
        "stability_score_thresh": parameters.stability,
        "crops_nms_thresh": parameters.overlap,
    }

    def one(image: Image.Image) -> Image.Image:
        masks = generator(image, **options)["masks"]
        masks = sorted((np.asarray(mask) for mask in masks), key=np.sum, reverse=True)
        painted = np.zeros((*image.size[::-1], 3), np.uint8)
        for number, mask in enumerate(masks):
            painted[mask] = palette[number % len(palette)]
        return Image.fromarray(painted)

    return lambda images: [one(image) for image in images]


@lru_cache(maxsize=1)
def _generator(repository: str, weights: Path | None, device: str) -> Any:
    import transformers

    network = pretrained(transformers.SamModel, repository, weights, device)
    processor = pretrained(transformers.SamImageProcessor, repository, weights)
    return transformers.pipeline("mask-generation", model=network, image_processor=processor, device=device)


def scene_segmentation(parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
    """Return a function that segments embedded scenes, by their reader: sky, floor and the four shapes, in the embedded
    world's palette."""
    return lambda images: [Image.fromarray(classes_to_image(reading.segmentation)) for reading in read(images)]


def _semantic(name: str, model: str, repository: str, licence: str, commercial: bool = True) -> Annotator:
    return Annotator(
        "seg", name, "transformers", partial(semantic, model, repository), (repository,), licence, commercial
    )


_SAM = "facebook/sam-vit-base"
_MASK2FORMER = "facebook/mask2former-swin-large-ade-semantic"
KIND = Kind(
    "seg",
    (
        _semantic("oneformer", "OneFormerForUniversalSegmentation", "shi-labs/oneformer_ade20k_swin_large", "MIT"),
        _semantic(
            "segformer", "SegformerForSemanticSegmentation", "nvidia/segformer-b5-finetuned-ade-640-640",
            "NVIDIA Source Code License for SegFormer, research only", False,
        ),
        _semantic(
            "mask2former", "Mask2FormerForUniversalSegmentation", _MASK2FORMER, "CC-BY-NC-4.0", False
        ),
        Annotator("seg", "sam", "transformers", partial(everything, _SAM), (_SAM,), parameters=Points),
        Annotator("seg", "scene", "scedit", scene_segmentation, measure=SCENE_CLASSES),
    ),
    ADE20K,
    labels=True,
)  # fmt: skip
