"""CLIP similarity of images and captions, and Inception features for FID, from local weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scedit_cli.utils.errors import not_loaded

Measure = Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]

CLIP = "openai/clip-vit-base-patch16"  # the papers' model
INCEPTION = "inception-2015-12-05.pt"  # NVIDIA's TorchScript file, which clean-fid loads
_SIDE = 299  # pixels, Inception's input


def clip_measure(folder: Path, device: torch.device) -> Measure:
    """Return a function from images and captions to CLIP scores (B, 1): 100 times the cosine of their embeddings
    (Hessel et al., EMNLP 2021), as torchmetrics has it.

    Raises:
        SceditError: the folder holds no CLIP model.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise not_loaded(error, f"`clip` {folder} is no CLIP model", f"give a folder with {CLIP}") from error
    most = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def measure(images: Sequence[Image.Image], captions: Sequence[str]) -> np.ndarray:
        inputs = processor(
            text=list(captions), images=[image.convert("RGB") for image in images], return_tensors="pt", padding=True,
            truncation=True, max_length=most,
        ).to(device)  # fmt: skip
        answer = model(**inputs)
        cosine = torch.nn.functional.cosine_similarity(answer.image_embeds, answer.text_embeds)
        return 100 * cosine.double().cpu().numpy()[:, None]

    return measure


def inception_measure(file: Path, device: torch.device) -> Measure:
    """Return a function from images to Inception's features (B, 2048), with clean-fid's resizing (Parmar et al., CVPR
    2022): each channel as floats by Pillow's antialiased bicubic filter, without rounding.

    Raises:
        SceditError: the file is no TorchScript model with the layers that clean-fid calls.
    """
    try:
        layers = torch.jit.load(str(file), map_location=device).eval().layers
    except (RuntimeError, ValueError, AttributeError) as error:
        hint = f"give {INCEPTION}, as NVIDIA's StyleGAN3 offers it"
        raise not_loaded(error, f"`inception` {file} is no Inception model", hint) from error

    @torch.no_grad()
    def measure(images: Sequence[Image.Image], _: Sequence[str]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([resized(image) for image in images])).permute(0, 3, 1, 2).to(device)
        return layers((pixels - 128) / 128).view(len(images), -1).double().cpu().numpy()

    return measure


def resized(image: Image.Image) -> np.ndarray:
    """Return an image as float32 (299, 299, 3) with levels from 0 to 255, resized as clean-fid does."""
    channels = [
        np.asarray(Image.fromarray(np.asarray(channel, np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
        for channel in image.convert("RGB").split()
    ]
    return np.stack(channels, -1).clip(0, 255)


def missing(clip: Path | None, inception: Path | None) -> dict[str, str]:
    """Return by figure the argument that it needs, and the weights to give."""
    needed = {}
    if clip is None:
        needed["clip_score"] = f"clip, a folder with {CLIP}"
    if inception is None:
        needed["fid"] = f"inception, the file {INCEPTION}"
    return needed
