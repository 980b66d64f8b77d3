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
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from scedit_cli import SCTuner, attach
from scedit_cli.models.base import Base
from scedit_cli.models.loading import quiet

FAMILIES = ("sd15", "sd21", "sdxl")
# Pruned as SSD-1B and Vega are (no mid block, attention of unlike depths), for inpainting (9 channels), and distilled
# with the guidance as an input (LCM).
VARIANTS = ("ssd1b", "inpaint", "lcm")
SMALLEST = "two-levels"  # SD2.1 with the fewest modules that have skips: for tests of what is around a U-Net
TEXT_WIDTH, SECOND_WIDTH = 16, 24

_HOME = tempfile.TemporaryDirectory(prefix="scedit-tiny-")
_SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@cache
def pipeline_folder(family: str, seed: int = 0) -> Path:
    """A diffusers folder of one of FAMILIES or VARIANTS, or SMALLEST, written once per process. Its pictures are 64 x 64 by default
    (SDXL's too), and sides must be multiples of 64 (SDXL: 32)."""
    folder = Path(_HOME.name) / f"{family}-{seed}"
    with quiet():
        pipeline(family, seed).save_pretrained(folder)
    return folder


def pipeline(family: str, seed: int = 0) -> DiffusionPipeline:
    """The same pipeline in memory, fresh at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family in ("sdxl", "ssd1b"):
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


def unet(family: str, in_channels: int | None = None) -> UNet2DConditionModel:
    """Blocks as in the full-size model, a fortieth as wide."""
    if family == SMALLEST:
        return two_levels()
    common = {"sample_size": 8, "norm_num_groups": 4, "layers_per_block": 2}
    common["in_channels"] = in_channels or (9 if family == "inpaint" else 4)
    if family in ("sdxl", "ssd1b"):
        depths = {"transformer_layers_per_block": (1, 1, 2)}
        if family == "ssd1b":
            depths = {
                "mid_block_type": None,
                "transformer_layers_per_block": [1, [1, 1], [2, 1]],
                "reverse_transformer_layers_per_block": [[2, 2, 3], [2, 1, 1], 1],
            }
        return UNet2DConditionModel(
            **common,
            **depths,
            block_out_channels=(8, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4, 8),
            use_linear_projection=True,
            cross_attention_dim=TEXT_WIDTH + SECOND_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + SECOND_WIDTH,
        )
    return UNet2DConditionModel(
        **common,
        block_out_channels=(8, 16, 32, 32),
        attention_head_dim=(1, 2, 4, 4) if family == "sd21" else 2,
        use_linear_projection=family == "sd21",
        cross_attention_dim=TEXT_WIDTH,
        time_cond_proj_dim=16 if family == "lcm" else None,
    )


def one_block() -> UNet2DConditionModel:
    """A U-Net of one block down and one up, which compiles in seconds."""
    return UNet2DConditionModel(
        sample_size=8,
        norm_num_groups=4,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        cross_attention_dim=TEXT_WIDTH,
    )


def two_levels() -> UNet2DConditionModel:
    """Two levels of one layer: the fewest modules that have skips, downsampling and attention."""
    return UNet2DConditionModel(
        sample_size=8,
        norm_num_groups=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(1, 2),
        use_linear_projection=True,
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
    if family == "lcm":
        return LCMScheduler(**_SCHEDULE, clip_sample=False)
    if family in ("sd15", "inpaint"):
        return PNDMScheduler(**_SCHEDULE, skip_prk_steps=True, steps_offset=1)
    if family in ("sd21", SMALLEST):
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


def trained(module: nn.Module, seed: int = 1, size: float = 0.2) -> nn.Module:
    """`module` with weights as if it had been trained: nothing is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=draw))
    return module


def aligned(base: Base) -> Base:
    """`base` with its weights copied from where they lie in their file. Kernels round by the alignment in memory, which
    is another in each file, so that equal weights of two files need not give equal bits."""
    for part in base.pipeline().components.values():
        if isinstance(part, nn.Module):
            for parameter in part.parameters():
                parameter.data = parameter.data.clone()
    return base


def train_a_step(base: Base) -> None:
    """Asserts: a fresh tuner changes nothing, and after one step of training the U-Net's output."""
    tuner = SCTuner.for_unet(base.unet)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, base.vae.config.latent_channels, 8, 8, generator=draw)
    arguments = base.unet_arguments(base.encode_prompts(["a cone"]), 64, 64)
    before = base.unet(latents, 500, **arguments).sample
    with attach(base.unet, tuner):
        output = base.unet(latents, 500, **arguments).sample
        assert torch.equal(output, before)
        output.square().mean().backward()
        torch.optim.SGD(tuner.parameters(), lr=1.0).step()
        assert not torch.equal(base.unet(latents, 500, **arguments).sample, before)
    assert torch.equal(base.unet(latents, 500, **arguments).sample, before)
