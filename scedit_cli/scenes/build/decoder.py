"""Stage 6: the decoder once more, for sharp edges, while the latents stay what they are.

The sum of errors that trained the autoencoder is least where an edge of uncertain place is blurred. Here the reader's
features and a discriminator of patches (Isola et al. 2017, arXiv 1611.07004; weighed by gradients as in Esser et al.
2021, arXiv 2012.09841) ask for an image that looks like a render. The encoder is frozen: U-Net and tuners keep their
latents.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.autoencoder import crops, reconstruction_loss
from scedit_cli.scenes.build.loop import fast_products, train
from scedit_cli.scenes.reader import Reader

STEPS = 2000
_ALONE = 100  # steps in which the discriminator learns before it counts
_LOOK, _FEATURES = 0.4, 0.5  # weights: the discriminator's gradient as a share of the errors' one, and the features


class PatchDiscriminator(nn.Sequential):
    """A judge of images (B, 3, H, W) in [-1, 1]: larger where a patch of 26 pixels looks rendered, (B, 1, H/4, W/4)."""

    def __init__(self, width: int = 32) -> None:
        leaky = nn.LeakyReLU(0.2)
        super().__init__(
            *(nn.Conv2d(3, width, 4, 2, 1), leaky),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(8, 2 * width), leaky),
            *(nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.GroupNorm(8, 2 * width), leaky),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )


def sharpen_decoder(
    work: Path, vae: AutoencoderKL, reader: Reader, scenes: int, styled: int, steps: int = STEPS
) -> None:
    """Train the decoder of `vae` in place, on the first `scenes` plain and `styled` pastel images."""
    torch.manual_seed(0)
    (plain,) = pictures.load(work, "plain", scenes, "images")
    (pastel,) = pictures.load(work, "pastel", styled, "images")
    vae.requires_grad_(False)
    reader.requires_grad_(False)
    learning = {"decoder": vae.decoder.requires_grad_(True), "after": vae.post_quant_conv.requires_grad_(True)}
    judge = PatchDiscriminator()
    last = vae.decoder.conv_out.weight

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 2])
        size, batch = (96, 6) if step < 0.75 * steps else (128, 4)  # as in the autoencoder's own training
        target = crops(rng, plain, pastel, size, batch)
        with fast_products():
            with torch.no_grad():
                latents = vae.encode(target).latent_dist.sample()
            output = vae.decode(latents).sample
            real = judge(target)
            drawn = judge(output.detach())
            seen = functional_call(judge, {name: value.detach() for name, value in judge.named_parameters()}, output)
        output = output.float()
        errors = reconstruction_loss(output, target) + _FEATURES * feature_loss(reader, output, target)
        judged = functional.relu(1 - real.float()).mean() + functional.relu(1 + drawn.float()).mean()
        look = -seen.float().mean()
        if step < _ALONE:
            return errors + judged
        by_errors, by_look = (torch.autograd.grad(each, last, retain_graph=True)[0].norm() for each in (errors, look))
        return errors + judged + _LOOK * (by_errors / (by_look + 1e-6)).clamp(max=100).detach() * look

    modules = learning | {"judge": judge}
    train("decoder", work, modules, loss_at, steps=steps, learning_rate=6e-4, warmup=100, weight_decay=1e-4, ema=0.995)
    vae.requires_grad_(False).eval()


def feature_loss(reader: Reader, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of the reader's two finest levels on images (B, 3, H, W) in [-1, 1]."""
    with fast_products():
        one, wanted = (reader.level1(functional.pixel_unshuffle(each, 2)) for each in (output, target))
        two, wanted_two = reader.level2(one), reader.level2(wanted)
    return (one - wanted).abs().mean().float() + (two - wanted_two).abs().mean().float()
