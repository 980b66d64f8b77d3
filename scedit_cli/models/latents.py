"""Scaling of an autoencoder's latents to unit size, as its configuration says, for the U-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import is_finite

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def scaled(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Scale the autoencoder's latents (B, C, h, w) for the U-Net: (latents - mean) · `scaling_factor` / deviation, with
    `latents_mean`, `latents_std` and `shift_factor` where the configuration has them."""
    mean, deviation = _statistics(vae, latents)
    return (latents - mean) * vae.config.scaling_factor / deviation


def unscaled(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Return latents (B, C, h, w) as the autoencoder decodes them; the inverse of `scaled`."""
    mean, deviation = _statistics(vae, latents)
    return latents * deviation / vae.config.scaling_factor + mean


def check_latents(vae: AutoencoderKL, what: str) -> None:
    """Check that an autoencoder's configuration says how its latents are scaled; errors call it `what`.

    Raises:
        SceditError: only one of latents_mean and latents_std is there, they do not hold one number per channel, or
            scaling_factor is no positive number.
    """
    config = vae.config
    means, deviations = config.get("latents_mean"), config.get("latents_std")
    if (means is None) != (deviations is None):
        there, lacks = ("latents_mean", "latents_std") if deviations is None else ("latents_std", "latents_mean")
        raise SceditError(f"{what}: its configuration has {there} and no {lacks}", hint="get it again")
    for name, values in (("latents_mean", means), ("latents_std", deviations)):
        if values is not None and not _are_numbers(values, config.latent_channels, positive=name == "latents_std"):
            kind = "positive numbers" if name == "latents_std" else "numbers"
            raise SceditError(
                f"{what}: {name} in its configuration is {values}, not {config.latent_channels} {kind}",
                hint="get it again",
            )
    if not _are_numbers([config.scaling_factor], 1, positive=True):
        raise SceditError(
            f"{what}: scaling_factor in its configuration is {config.scaling_factor}, no positive number",
            hint="get it again",
        )


def _statistics(vae: AutoencoderKL, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Return mean and deviation of the latents, each a number or (C, 1, 1)."""
    config = vae.config
    mean: Tensor | float = config.get("shift_factor") or 0.0
    if config.get("latents_mean") is None:
        return mean, 1.0
    means, deviations = (torch.tensor(config[name]).view(-1, 1, 1).to(like) for name in ("latents_mean", "latents_std"))
    return means + mean, deviations


def _are_numbers(values: object, count: int, positive: bool) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(map(is_finite, values))
        and not (positive and min(values) <= 0)
    )
