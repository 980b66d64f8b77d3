"""The names of weights in the original layout: the kind of a file, and the weights that a pipeline has no place for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline

# The start of the text encoders' weight names identifies the family.
_TEXT_ENCODERS = {
    "sdxl": "conditioner.embedders.1.model.",
    "sd21": "cond_stage_model.model.",
    "sd15": "cond_stage_model.transformer.",
}
_PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
# Weights that a complete checkpoint may hold and sampling never uses: training's leftovers, CLIP's scale and projection
# where the family takes neither, and the last layer of SD2.1's text encoder, since SD2.1 takes texts before that layer.
_SPARE = re.compile(
    r"^first_stage_model\.(loss|model_ema)\.|(^|\.)(position_ids|logit_scale|attn_mask|text_projection(\.weight)?)$"
    r"|^cond_stage_model\.model\.(transformer\.resblocks\.23|visual)\.|\.vision_model\.|\.visual_projection\.weight$"
)
# Descriptions of other kinds of files, by a part of a weight's name.
_OTHERS = {
    "joint_blocks.": "a model of Stable Diffusion 3, a transformer without skips",
    "double_blocks.": "a model of Flux's kind, a transformer without skips",
    "conditioner.embedders.0.open_clip.": "a checkpoint of Stable Video Diffusion, whose U-Net takes an image",
    "conditioner.embedders.0.model.": "an SDXL refiner, which goes on with images of SDXL's",
    "control_model.": "a checkpoint with a ControlNet in it",
    "noise_augmentor.": "a checkpoint of unCLIP, whose U-Net takes the embedding of an image beside texts",
    "low_scale_model.": "an upscaler, whose U-Net takes an image and a noise level beside texts",
    "depth_model.": "a depth-to-image checkpoint, whose U-Net takes depth beside latents",
    "time_embed.cond_proj.": "a latent consistency model (LCM) whose U-Net is told the guidance",
    "lora_": "a file with a LoRA in it, which is not applied",
    ".lora_A.": "a file with a LoRA in it, which is not applied",
    "down_blocks.": "a model alone, in the diffusers layout",
}
_LABELS = "model.diffusion_model.label_emb."
_CLASSES = "a checkpoint whose U-Net takes class_labels beside texts, as those of unCLIP and upscalers do"


def family_of(keys: Iterable[str]) -> str | None:
    """Return the family of a checkpoint with weights of these names, or None."""
    return next((name for name, start in _TEXT_ENCODERS.items() if any(key.startswith(start) for key in keys)), None)


def other_kind(keys: Iterable[str], family: str | None) -> str | None:
    """Describe a file that is no plain checkpoint of its family; None where it is one, or cannot be recognised."""
    keys = list(keys)
    kind = next((kind for mark, kind in _OTHERS.items() if any(mark in key for key in keys)), None)
    has_labels = family in ("sd15", "sd21") and any(key.startswith(_LABELS) for key in keys)
    return kind or (_CLASSES if has_labels else None)


def homeless_in(keys: Iterable[str], pipeline: DiffusionPipeline) -> list[str]:
    """Return the names of a file's weights that no part of `pipeline`, which was read from it, has a place for."""
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )

    keys = [key for key in keys if key.startswith(_PARTS)]
    placed = _placed(keys, pipeline.unet, lambda tokens: convert_ldm_unet_checkpoint(tokens, pipeline.unet.config))
    placed |= _placed(keys, pipeline.vae, lambda tokens: convert_ldm_vae_checkpoint(tokens, pipeline.vae.config))
    for name, encoder in pipeline.components.items():
        if name.startswith("text_encoder"):
            placed |= _placed(keys, encoder, convert_ldm_clip_checkpoint)
            for start in (_TEXT_ENCODERS["sd21"], _TEXT_ENCODERS["sdxl"]):
                placed |= _placed(
                    keys, encoder, lambda tokens, e=encoder, s=start: convert_open_clip_checkpoint(e, tokens, prefix=s)
                )
    return [key for key in keys if key not in placed and not _SPARE.search(key)]


def homeless_in_autoencoder(keys: Iterable[str], vae: AutoencoderKL) -> list[str]:
    """Return the same as `homeless_in`, for an autoencoder's file in the original layout."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    keys = list(keys)
    inside = [key for key in keys if key.startswith("first_stage_model.")] or keys
    placed = _placed(inside, vae, lambda tokens: convert_ldm_vae_checkpoint(tokens, vae.config))
    leftover = re.compile(r"(first_stage_model\.)?(loss|model_ema)\.")
    return [key for key in inside if key not in placed and not leftover.match(key)]


def _placed(
    keys: list[str], model: torch.nn.Module, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> set[str]:
    """Return the weights that diffusers' conversion gives a name in the model. Numbers are converted in place of the
    weights, so that none is read."""
    names = {name.removeprefix("text_model.") for name in model.state_dict()}
    converted = convert({key: torch.full((1, 1), number) for number, key in enumerate(keys)})
    return {
        keys[int(number.flatten()[0])]
        for name, number in converted.items()
        if number.numel() and name.removeprefix("text_model.") in names
    }
