"""Stage 2: the autoencoder, AutoencoderKL with factor 8 and four latent channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.loop import fast_products, train

STEPS = 5000
_KL_WEIGHT = 1e-4


def new_autoencoder() -> AutoencoderKL:
    levels = 4
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=128,
    )


def train_autoencoder(work: Path, scenes: int, styled: int, steps: int = STEPS) -> AutoencoderKL:
    torch.manual_seed(0)
    model = new_autoencoder().train()
    (plain,) = pictures.load(work, "plain", scenes, "images")
    (pastel,) = pictures.load(work, "pastel", styled, "images")

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 1])
        # Crops come first and whole images in the last quarter, so that the normalisations end on true statistics.
        size, batch = (96, 8) if step < 0.75 * steps else (128, 5)
        target = crops(rng, plain, pastel, size, batch)
        with fast_products():
            posterior = model.encode(target).latent_dist
            output = model.decode(posterior.sample()).sample
        return reconstruction_loss(output.float(), target) + _KL_WEIGHT * _kl(posterior)

    train("autoencoder", work, {"autoencoder": model}, loss_at, steps=steps, learning_rate=2e-3, weight_decay=1e-4)
    return model.eval()


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss of images (B, 3, H, W) in [-1, 1] by absolute, squared and gradient differences. Saturated pixels
    weigh more, since a bottleneck this narrow loses small coloured objects first."""
    weight = 1 + 1.5 * (target.amax(1, keepdim=True) - target.amin(1, keepdim=True))
    difference = output - target
    loss = (weight * (difference.abs() + 2 * difference.square())).mean()
    for axis in (2, 3):
        loss = loss + (difference.diff(dim=axis)).abs().mean()
    return loss


def _kl(posterior) -> torch.Tensor:
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def crops(rng: np.random.Generator, plain: np.ndarray, pastel: np.ndarray, size: int, count: int) -> torch.Tensor:
    """Return random square parts of images, half of them mirrored, (count, 3, size, size) in [-1, 1]."""
    parts = torch.from_numpy(np.stack([_crop(rng, plain, pastel, size) for _ in range(count)]))
    return parts.permute(0, 3, 1, 2).float() / 127.5 - 1


def _crop(rng: np.random.Generator, plain: np.ndarray, pastel: np.ndarray, size: int) -> np.ndarray:
    source = pastel if rng.random() < 0.15 else plain
    picture = source[rng.integers(len(source))]
    top, left = rng.integers(0, 128 - size + 1, 2)
    picture = picture[top : top + size, left : left + size]
    return picture[:, ::-1] if rng.random() < 0.5 else picture
