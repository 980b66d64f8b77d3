"""What the tests of frozen layers share: fixed inputs, U-Nets, and their gradients with a tuner on."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from scedit_cli import attach
from tests import tiny

MODES = [("lean", "layer"), ("checkpoint", "transformer"), ("checkpoint", "layer"), ("checkpoint", "fine")]


def fixed(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def call(unet: nn.Module, size: int = 8, **more) -> Tensor:
    one = next(unet.parameters())
    if unet.config.addition_embed_type:
        embeddings = {"text_embeds": fixed(2, tiny.SECOND_WIDTH).to(one), "time_ids": fixed(2, 6).to(one)}
        more["added_cond_kwargs"] = embeddings
    context = fixed(2, 5, unet.config.cross_attention_dim).to(one)
    return unet(fixed(2, 4, size, size).to(one), torch.tensor([10, 500]), context, **more).sample


def frozen_unet(family: str, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return tiny.unet(family).to(dtype).requires_grad_(False)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}
    module.zero_grad(set_to_none=True)
    assert found and all(each is not None for each in found.values())
    return found


def tuned(unet: nn.Module, tuner, memory: str = "plain", recompute: str = "layer", steps: int = 1, run=call):
    """The output, and the gradients of a made-up loss, over `steps` accumulated passes."""
    with attach(unet, tuner, memory=memory, recompute=recompute) as edits:
        if tuner.condition:
            edits.set_hints(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
        for step in range(steps):
            output = run(unet)
            (output.float() * fixed(*output.shape, seed=step)).sum().backward()
    return output.detach(), gradients(tuner)


def equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """To `tolerance` of each tensor's norm; 0 is bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm(), name
