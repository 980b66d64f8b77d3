"""Trained-looking tuners on tiny U-Nets, and inputs for them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from scedit_cli import CSCTuner, SCTuner
from tests import tiny


@cache
def unet_of(family: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny.unet(family).eval().requires_grad_(False)


def csc(family: str, condition: str, seed: int = 1, **sizes) -> CSCTuner:
    """A tuner with weights large enough to be seen."""
    return tiny.trained(CSCTuner.for_unet(unet_of(family), condition, hint_channels=8, **sizes), seed)


def sc(family: str, seed: int = 2, **sizes) -> SCTuner:
    return tiny.trained(SCTuner.for_unet(unet_of(family), **sizes), seed)


def drawn(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shades(*shape: int, seed: int = 7) -> Tensor:
    """Values in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def texts(family: str, count: int, seed: int = 9) -> dict:
    """The U-Net's conditions for `count` images."""
    width = tiny.TEXT_WIDTH + (tiny.SECOND_WIDTH if family == "sdxl" else 0)
    given: dict = {"encoder_hidden_states": drawn(count, 7, width, seed=seed)}
    if family == "sdxl":
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(count, 1)
        given["added_cond_kwargs"] = {"text_embeds": drawn(count, tiny.SECOND_WIDTH, seed=seed + 1), "time_ids": ids}
    return given
