"""A tiny random model of every class of diffusers that has skips, and a call of each on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import diffusers
import torch
from torch import Tensor, nn

Call = Callable[[nn.Module, Tensor], object]
FRAMES = 3
_WIDTHS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
_CROSS = {**_WIDTHS, "cross_attention_dim": 8, "attention_head_dim": 2}


class Kind(NamedTuple):
    """How a model is made, called, and how its input and its hints are laid out."""

    make: Callable[[], nn.Module]
    call: Call
    shape: tuple[int, ...]
    frames_axis: int | None = None


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(batch: int, width: int = 8) -> Tensor:
    return draw(batch, 5, width, seed=1)


def _conditional(unet: nn.Module, x: Tensor) -> object:
    return unet(x, 10, text(len(x)))


def motion_call(unet: nn.Module, x: Tensor) -> object:
    return unet(x, 10, text(len(x)).repeat_interleave(x.shape[2], 0))  # AnimateDiff's pipeline gives each frame a text


def _blocks(down: str, up: str, **more) -> nn.Module:
    types = {"down_block_types": ("DownBlock2D", down), "up_block_types": (up, "UpBlock2D")}
    return diffusers.UNet2DConditionModel(**_CROSS, **{**types, **more})


def _scalable(name: str) -> Callable[[], nn.Module]:
    return lambda: diffusers.UNet2DModel(
        **_WIDTHS,
        down_block_types=("DownBlock2D", f"{name}DownBlock2D"),
        up_block_types=(f"{name}UpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    )


def _score_sde() -> nn.Module:
    widths = {"block_out_channels": (32, 32), "layers_per_block": 1, "sample_size": 8}
    down, up = ("SkipDownBlock2D", "AttnSkipDownBlock2D"), ("AttnSkipUpBlock2D", "SkipUpBlock2D")
    return diffusers.UNet2DModel(**widths, down_block_types=down, up_block_types=up, attention_head_dim=8)


def _dreamlite() -> nn.Module:
    return diffusers.DreamLiteUNetModel(
        **_WIDTHS,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    )


def _audio() -> nn.Module:
    return diffusers.AudioLDM2UNet2DConditionModel(
        **_CROSS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def motion() -> nn.Module:
    return diffusers.UNetMotionModel(
        **{**_WIDTHS, "cross_attention_dim": 8},
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        motion_num_attention_heads=2,
    )


def _three_d(kind: type, **more) -> nn.Module:
    down, up = ("CrossAttnDownBlock3D", "DownBlock3D"), ("UpBlock3D", "CrossAttnUpBlock3D")
    return kind(**_CROSS, down_block_types=down, up_block_types=up, **more)


def _i2vgen(unet: nn.Module, x: Tensor) -> object:
    batch = len(x)
    given = {"image_latents": draw(*x.shape, seed=2), "image_embeddings": draw(batch, 8, seed=3)}
    return unet(x, 10, torch.full((batch,), 8), **given, encoder_hidden_states=text(batch))


def svd() -> nn.Module:
    return diffusers.UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=8,
        num_attention_heads=(2, 2),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        num_frames=FRAMES,
    )


def _kandinsky3() -> nn.Module:
    widths = {"block_out_channels": (16, 16, 32, 32), "groups": 4, "attention_head_dim": 4, "layers_per_block": 3}
    return diffusers.Kandinsky3UNet(
        **widths, time_embedding_dim=16, cross_attention_dim=8, encoder_hid_dim=8, in_channels=4
    )


def _cascade(**more) -> nn.Module:
    layers = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    given = {
        "in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 8, "conditioning_dim": 8,
        "block_out_channels": (8, 16, 16), "num_attention_heads": (2, 2, 2), "clip_text_pooled_in_channels": 8,
        "down_num_layers_per_block": (1, 1, 1), "up_num_layers_per_block": (1, 2, 1), "dropout": (0.0, 0.0, 0.0),
        "down_blocks_repeat_mappers": (1, 1, 1), "up_blocks_repeat_mappers": (1, 1, 1), "self_attn": True,
        "block_types_per_layer": (layers,) * 3,
    }  # fmt: skip
    return diffusers.models.StableCascadeUNet(**{**given, **more})


def _hunyuan() -> nn.Module:
    return diffusers.HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=6, mlp_ratio=2.0, cross_attention_dim=8, cross_attention_dim_t5=8, pooled_projection_dim=8,
        text_len=5, text_len_t5=5, use_style_cond_and_image_meta_size=False, activation_fn="gelu-approximate",
    )  # fmt: skip


def _hunyuan_call(model: nn.Module, x: Tensor) -> object:
    batch = len(x)
    mask = torch.ones(batch, 5)
    return model(
        x, torch.full((batch,), 10.0), encoder_hidden_states=text(batch), text_embedding_mask=mask,
        encoder_hidden_states_t5=text(batch), text_embedding_mask_t5=mask, return_dict=False,
    )  # fmt: skip


IMAGE, VIDEO = (2, 4, 8, 8), (2, 4, FRAMES, 8, 8)
TRAINED: dict[str, Kind] = {
    "UNet2DCondition": Kind(lambda: _blocks("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), _conditional, IMAGE),
    "DeepFloyd IF": Kind(
        lambda: _blocks(
            "SimpleCrossAttnDownBlock2D",
            "SimpleCrossAttnUpBlock2D",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            resnet_time_scale_shift="scale_shift",
        ),
        _conditional,
        IMAGE,
    ),
    "DreamLite": Kind(_dreamlite, _conditional, IMAGE),
    "AudioLDM2": Kind(_audio, _conditional, IMAGE),
    "UNet2D": Kind(_scalable("Attn"), lambda unet, x: unet(x, 10), (2, 3, 8, 8)),
    "score SDE": Kind(_score_sde, lambda unet, x: unet(x, 10), (2, 3, 8, 8)),
    "UNetMotion": Kind(motion, motion_call, VIDEO, 2),
    "UNet3D": Kind(lambda: _three_d(diffusers.UNet3DConditionModel), _conditional, VIDEO, 2),
    "I2VGenXL": Kind(lambda: _three_d(diffusers.I2VGenXLUNet), _i2vgen, VIDEO, 2),
    "SVD": Kind(
        svd, lambda unet, x: unet(x, 10, text(len(x))[:, :1], torch.ones(len(x), 3)), (2, FRAMES, 8, 8, 8), 1
    ),
    "Kandinsky3": Kind(
        _kandinsky3,
        lambda unet, x: unet(x, 10, text(len(x)), encoder_attention_mask=torch.ones(len(x), 5)),
        (2, 4, 16, 16),
    ),
    "StableCascade C": Kind(_cascade, lambda unet, x: unet(x, torch.ones(len(x)), draw(len(x), 1, 8)), (2, 4, 8, 8)),
    "StableCascade B": Kind(
        lambda: _cascade(
            patch_size=2, switch_level=(False, True), up_blocks_repeat_mappers=(1, 2, 2),
            down_blocks_repeat_mappers=(1, 1, 2),
        ),
        lambda unet, x: unet(x, torch.ones(len(x)), draw(len(x), 1, 8)),
        (2, 4, 12, 12),
    ),
    "HunyuanDiT": Kind(_hunyuan, _hunyuan_call, (2, 4, 8, 12)),
}  # fmt: skip


def made(kind: Kind) -> nn.Module:
    """The model of `kind`, frozen, with no weight at zero."""
    torch.manual_seed(0)
    model = kind.make().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def run(kind: Kind, model: nn.Module, batch: int = 2) -> Tensor:
    output = kind.call(model, draw(batch, *kind.shape[1:], seed=7))
    return output[0]
