"""A small U-Net and what is needed to run and edit it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tests import tiny


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """Three levels of 16, 32 and 32 channels; skips of 16×3, 32×3 with one resnet a level."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32, 32),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return model.eval().requires_grad_(False)


@pytest.fixture
def run() -> Callable[..., Tensor]:
    """Calls a U-Net on fixed inputs: run(unet, batch=2, size=(8, 8))."""

    def call(unet: nn.Module, batch: int = 2, size: tuple[int, int] = (8, 8)) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        one = next(unet.parameters())
        sample = torch.randn(batch, 4, *size, generator=draw).to(one)
        context = torch.randn(batch, 5, 16, generator=draw).to(one)
        return unet(sample, torch.arange(batch) * 100 + 10, context).sample

    return call


@pytest.fixture
def trained() -> Callable[[nn.Module], nn.Module]:
    """Gives a tuner (or bundle) weights as if it had been trained: nothing is zero."""
    return partial(tiny.trained, seed=2)


@pytest.fixture
def hint() -> Callable[..., Tensor]:
    """A hint picture for latents of 8×8: hint(batch=2, seed=3)."""

    def draw(batch: int = 2, seed: int = 3, height: int = 64, width: int = 64) -> Tensor:
        return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))

    return draw
