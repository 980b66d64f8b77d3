"""Inpainting U-Nets used as text-to-image ones: their mask covers the whole image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scedit_cli.models.latents import scaled

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SIDE = 64  # pixels of the encoded gray image; the latent in its middle stands for gray of any size


def complete_inputs(pipeline: DiffusionPipeline) -> None:
    """Let a U-Net of 9 input channels (latents, mask, latents of the masked image) be called with latents alone, by the
    pipeline and in training: the mask is then all ones and the masked image gray, as diffusers makes it."""
    if pipeline.unet.config.in_channels == pipeline.vae.config.latent_channels:
        return
    with torch.no_grad():
        gray = scaled(pipeline.vae.encode(torch.zeros(1, 3, _SIDE, _SIDE)).latent_dist.mode(), pipeline.vae)
    middle = gray[..., gray.shape[-2] // 2, gray.shape[-1] // 2]
    pipeline.unet.register_forward_pre_hook(_Completion(middle), with_kwargs=True)
    # diffusers' pipeline would draw as many channels of noise as the U-Net takes.
    pipeline.__class__ = type(f"Whole{type(pipeline).__name__}", (_WholePicture, type(pipeline)), {})


class _Completion:
    """A forward pre-hook that adds mask and masked image to a U-Net's latents, unless the input has them already."""

    def __init__(self, gray: Tensor) -> None:
        self.gray = gray  # (1, C)

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        sample = args[0] if args else kwargs["sample"]
        if sample.shape[1] != self.gray.shape[1]:
            return args, kwargs
        mask = torch.ones_like(sample[:, :1])
        gray = self.gray.to(sample)[..., None, None].expand_as(sample)
        complete = torch.cat([sample, mask, gray], dim=1)
        return ((complete, *args[1:]), kwargs) if args else (args, kwargs | {"sample": complete})


class _WholePicture:
    def prepare_latents(self, batch_size: int, channels: int, *args: Any, **kwargs: Any) -> Tensor:
        return super().prepare_latents(batch_size, self.vae.config.latent_channels, *args, **kwargs)
