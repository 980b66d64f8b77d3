"""Tuners on the U-Nets of diffusers' own video pipelines."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from scedit_cli import CSCTuner, SCTuner, attach
from tests import tiny
from tests.core.skip_models import FRAMES, draw, motion, svd

HINTS = torch.rand(1, 3, FRAMES, 64, 64, generator=torch.Generator().manual_seed(4))


def animatediff() -> tuple[torch.nn.Module, Callable[[], Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = tiny.pipeline("sd15")
        unet = motion()
        text = torch.nn.Linear(tiny.TEXT_WIDTH, 8)  # the tiny text encoder is wider than the tiny U-Net's texts
    pipeline = diffusers.AnimateDiffPipeline(
        vae=image.vae, text_encoder=image.text_encoder, tokenizer=image.tokenizer, unet=unet, motion_adapter=None,
        scheduler=diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    prompt, negative = (text(draw(1, 5, tiny.TEXT_WIDTH, seed=seed)).detach() for seed in (1, 2))

    def run() -> Tensor:
        return pipeline(
            prompt_embeds=prompt, negative_prompt_embeds=negative, num_frames=FRAMES, height=64, width=64,
            num_inference_steps=2, guidance_scale=4.0, output_type="pt", generator=torch.Generator().manual_seed(3),
        ).frames  # fmt: skip

    return unet, run


def stable_video() -> tuple[torch.nn.Module, Callable[[], Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = svd()
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=8, projection_dim=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                image_size=224, patch_size=112,
            )
        )  # fmt: skip
        vae = diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
            latent_channels=4,
        )  # fmt: skip
    pipeline = diffusers.StableVideoDiffusionPipeline(
        vae=vae, image_encoder=encoder, unet=unet, feature_extractor=CLIPImageProcessor(),
        scheduler=diffusers.EulerDiscreteScheduler(
            timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0,
            use_karras_sigmas=True, timestep_spacing="leading",
        ),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB")

    def run() -> Tensor:
        return pipeline(
            picture, height=64, width=64, num_frames=FRAMES, num_inference_steps=2, output_type="pt",
            generator=torch.Generator().manual_seed(3),
        ).frames  # fmt: skip

    return unet, run


@pytest.mark.parametrize("make", [animatediff, stable_video])
@torch.no_grad()
def test_a_fresh_tuner_gives_the_pipelines_frames_bit_for_bit(make):
    unet, run = make()
    before = run()
    assert before.shape[1:] == (FRAMES, 3, 64, 64)
    fresh = [SCTuner.for_unet(unet), CSCTuner.for_unet(unet, "depth", hint_channels=4)]
    with attach(unet, fresh) as edits:
        edits.set_hints({"depth": HINTS})
        assert torch.equal(run(), before)
    with attach(unet, tiny.trained(CSCTuner.for_unet(unet, "depth", hint_channels=4), size=0.2)) as edits:
        edits.set_hints({"depth": HINTS})
        per_frame = run()
        edits.set_hints({"depth": HINTS[:, :, 0]})
        for_all = run()
    assert (per_frame - before).abs().max() > 1e-3 and (per_frame - for_all).abs().max() > 1e-4
    assert torch.equal(run(), before)
