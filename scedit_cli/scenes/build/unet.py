"""Stage 5: the latents of every image, and the U-Net that is trained to denoise them (v-prediction)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.loop import fast_products, train
from scedit_cli.scenes.build.text import WIDTH
from scedit_cli.scenes.captions import named_objects, shares_attribute

# Steps and peak learning rate of each cosine cycle (SGDR, arXiv 1608.03983).
CYCLES = ((5000, 1e-3), (9000, 6e-4), (7000, 6e-4))
BATCH = 32
_UNCONDITIONAL = 0.1  # share of the samples that see the empty caption, for classifier-free guidance


def new_scheduler() -> DDIMScheduler:
    # The last timestep is almost pure noise (SNR 2.5e-4), so sampling starts with free brightness and colours.
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers: the number of heads
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


@torch.no_grad()
def moments(work: Path, vae: AutoencoderKL, scenes: int) -> torch.Tensor:
    """Return the posterior's mean and log-variance (N, 8, 16, 16) of every image, cached in WORK/moments.pt."""
    path = work / "moments.pt"
    if not path.exists():
        (images,) = pictures.load(work, "plain", scenes, "images")
        parts = []
        for start in range(0, len(images), 50):
            x = torch.from_numpy(images[start : start + 50]).permute(0, 3, 1, 2).float() / 127.5 - 1
            with fast_products():
                parts.append(vae.encode(x).latent_dist.parameters.float())
            if start % 5000 == 0:
                print(f"moments: {start}/{len(images)}", flush=True)
        torch.save(torch.cat(parts), path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def normalise(vae: AutoencoderKL, kept: torch.Tensor) -> torch.Tensor:
    """Fold every latent channel's mean and deviation into the 1x1 maps around the latent, so that latents have mean 0
    and deviation 1 with `scaling_factor` 1, which every diffusers pipeline understands; return the moments of the
    folded encoder."""
    mean, logvar = kept.chunk(2, 1)
    shift = mean.mean((0, 2, 3))
    scale = (mean.var((0, 2, 3)) + logvar.exp().mean((0, 2, 3))).sqrt()
    count = len(shift)
    after, before = vae.quant_conv, vae.post_quant_conv
    after.weight[:count] /= scale[:, None, None, None]
    after.bias[:count] = (after.bias[:count] - shift) / scale
    after.bias[count:] -= 2 * scale.log()
    before.bias += (before.weight[:, :, 0, 0] * shift).sum(1)
    before.weight *= scale[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)
    column = (1, count, 1, 1)
    return torch.cat(((mean - shift.view(column)) / scale.view(column), logvar - 2 * scale.log().view(column)), 1)


@torch.no_grad()
def embeddings(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]) -> torch.Tensor:
    """Return the last hidden states of `texts`, (N, tokens, WIDTH) in float16."""
    parts = []
    for start in range(0, len(texts), 256):
        batch = texts[start : start + 256]
        ids = tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt").input_ids
        parts.append(encoder(ids).last_hidden_state.half())
    return torch.cat(parts)


def train_unet(
    work: Path, kept: torch.Tensor, tokenizer: CLIPTokenizer, encoder: CLIPTextModel
) -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = new_unet().train()
    alphas = new_scheduler().alphas_cumprod
    (captions,) = pictures.load(work, "plain", len(kept), "captions")
    contexts = embeddings(tokenizer, encoder, captions.tolist())
    empty = embeddings(tokenizer, encoder, [""])[0]
    mean, deviation = kept[:, :4], (0.5 * kept[:, 4:]).exp()

    drawn = torch.cat((torch.arange(len(kept)), crowded(captions.tolist())))

    def loss_at(step: int) -> torch.Tensor:
        rows = drawn[_epoch(len(drawn), step)]
        latents = mean[rows] + deviation[rows] * torch.randn_like(mean[rows])
        context = contexts[rows].float()
        context[torch.rand(len(rows)) < _UNCONDITIONAL] = empty.float()
        # Times are stratified over the batch: a step covers all noise levels, which makes its gradient less noisy.
        times = ((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH * len(alphas)).long()
        alpha, sigma = (a[times].sqrt().view(-1, 1, 1, 1) for a in (alphas, 1 - alphas))
        noise = torch.randn_like(latents)
        # For so few tokens, plain products are faster than the CPU's flash attention.
        with fast_products(), sdpa_kernel(SDPBackend.MATH):
            output = unet(alpha * latents + sigma * noise, times, context).sample
        return functional.mse_loss(output.float(), alpha * noise - sigma * latents)

    first = 0
    for cycle, (steps, learning_rate) in enumerate(CYCLES):
        options = {"steps": steps, "learning_rate": learning_rate, "first": first}
        train(f"unet-{cycle}", work, {"unet": unet}, loss_at, warmup=300, ema=0.999, **options)
        first += steps
    return unet.eval()


def crowded(captions: list[str]) -> torch.Tensor:
    """Return the rows of the captions that name three objects or more, or two of one colour or shape. A U-Net mixes
    such objects up most, and sees them twice an epoch."""
    rows = [row for row, text in enumerate(captions) if len(named_objects(text)) > 2 or shares_attribute(text)]
    return torch.tensor(rows)


def _epoch(count: int, step: int) -> torch.Tensor:
    """Return the rows of this step's batch; every epoch has its own shuffle."""
    per_epoch = count // BATCH
    order = np.random.default_rng([step // per_epoch, 3]).permutation(count)
    at = step % per_epoch * BATCH
    return torch.from_numpy(order[at : at + BATCH])
