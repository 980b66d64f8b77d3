"""Tiny random pipelines with the topology of SD1.5, SD2.1 and SDXL, in the diffusers layout, made on the spot."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from scedit_cli.pipelines import quiet

FAMILIES = ("sd15", "sd21", "sdxl")
TEXT_WIDTH, SECOND_WIDTH = 16, 24

_HOME = tempfile.TemporaryDirectory(prefix="scedit-tiny-")
_SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@cache
def pipeline_folder(family: str, seed: int = 0) -> Path:
    """A diffusers folder of one of FAMILIES, written once per process. Its pictures are 64 x 64 by default (SDXL's
    too), and sides must be multiples of 64 (SDXL: 32)."""
    folder = Path(_HOME.name) / f"{family}-{seed}"
    with quiet():
        pipeline(family, seed).save_pretrained(folder)
    return folder


def pipeline(family: str, seed: int = 0) -> DiffusionPipeline:
    """The same pipeline in memory, fresh at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "sdxl":
            return StableDiffusionXLPipeline(
                vae=vae(),
                text_encoder=CLIPTextModel(text_config()),
                text_encoder_2=CLIPTextModelWithProjection(text_config(SECOND_WIDTH)),
                tokenizer=tokenizer(),
                tokenizer_2=tokenizer(),
                unet=unet(family),
                scheduler=scheduler(family),
                add_watermarker=False,
            )
        return StableDiffusionPipeline(
            vae=vae(),
            text_encoder=CLIPTextModel(text_config()),
            tokenizer=tokenizer(),
            unet=unet(family),
            scheduler=scheduler(family),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def unet(family: str) -> UNet2DConditionModel:
    """Blocks as in the full-size model, a fortieth as wide."""
    common = {"sample_size": 8, "norm_num_groups": 4, "layers_per_block": 2}
    if family == "sdxl":
        return UNet2DConditionModel(
            **common,
            block_out_channels=(8, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4, 8),
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            cross_attention_dim=TEXT_WIDTH + SECOND_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + SECOND_WIDTH,
        )
    return UNet2DConditionModel(
        **common,
        block_out_channels=(8, 16, 32, 32),
        attention_head_dim=2 if family == "sd15" else (1, 2, 4, 4),
        use_linear_projection=family == "sd21",
        cross_attention_dim=TEXT_WIDTH,
    )


def vae() -> AutoencoderKL:
    """Factor 8, four latent channels."""
    return AutoencoderKL(
        block_out_channels=(4, 8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def scheduler(family: str):
    """PNDM, DDIM with v-prediction, Euler: as the full-size models carry them."""
    if family == "sd15":
        return PNDMScheduler(**_SCHEDULE, skip_prk_steps=True, steps_offset=1)
    if family == "sd21":
        return DDIMScheduler(**_SCHEDULE, clip_sample=False, steps_offset=1, prediction_type="v_prediction")
    return EulerDiscreteScheduler(**_SCHEDULE, steps_offset=1, timestep_spacing="leading")


def text_config(width: int = TEXT_WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer().bos_token_id,
        eos_token_id=tokenizer().eos_token_id,
        projection_dim=width,
    )


@cache
def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single bytes: no merges."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
