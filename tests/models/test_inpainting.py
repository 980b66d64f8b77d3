"""Inpainting U-Nets, tuned and sampled as text-to-image ones."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny


def test_an_inpainting_unet_paints_whole_pictures():
    base = load_base(tiny.pipeline_folder("inpaint"))
    pipeline = base.pipeline()
    options = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 3.0}
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = pipeline("a cone", latents=noise, **options).images
    # As diffusers' own inpainting pipeline has it, with a mask over the whole picture; its gray picture is encoded
    # whole, where borders differ, so the same constant is put in its place.
    own = StableDiffusionInpaintPipeline(**base.pipeline().components, requires_safety_checker=False)
    [completion] = base.unet._forward_pre_hooks.values()
    gray = completion.gray[..., None, None].expand(1, 4, 8, 8)
    own.prepare_mask_latents = lambda *args, **kwargs: (torch.ones(2, 1, 8, 8), gray.repeat(2, 1, 1, 1))
    picture = torch.zeros(1, 3, 64, 64)
    expected = own("a cone", image=picture, mask_image=torch.ones(1, 1, 64, 64), latents=noise, height=64, width=64,
                   **options).images  # fmt: skip
    assert torch.allclose(made, expected, atol=1e-5)
    tiny.train_a_step(base)


def test_a_unet_that_takes_more_than_latents_is_refused(tmp_path):
    folder = shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / "pix2pix")
    unet = tiny.unet("sd15", in_channels=8)
    unet.save_pretrained(folder / "unet")
    with pytest.raises(SceditError, match="its U-Net takes 8 channels, where latents have 4"):
        load_base(folder)
