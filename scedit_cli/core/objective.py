"""The losses of diffusion training: noise prediction (DDPM, v-prediction, min-SNR weighting) and flow matching."""

from __future__ import annotations

import torch
from torch import Tensor

from scedit_cli.utils.errors import SceditError

FLOW = "flow"
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", FLOW)


def add_noise(
    latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, flow: bool = False
) -> Tensor:
    """Return x_t = √ᾱ_t·x_0 + √(1-ᾱ_t)·ε (Ho et al. 2020, equation 4), or for flow matching on straight lines
    x_t = (1-σ_t)·x_0 + σ_t·ε with 1-σ_t = √ᾱ_t (Liu et al. 2022, arXiv 2209.03003).

    Args:
        latents: scaled latents x_0, (B, C, h, w).
        noise: ε of the same shape.
        timesteps: integers in [0, T), (B,).
        alphas_cumprod: ᾱ, (T,).
        flow: whether the latents are those of flow matching.
    """
    signal, spread = _signal_and_spread(timesteps, alphas_cumprod, latents, flow)
    return signal * latents + spread * noise


def target(prediction_type: str, noise: Tensor, latents: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return the U-Net's target: ε ("epsilon"), √ᾱ·ε - √(1-ᾱ)·x_0 ("v_prediction"), x_0 ("sample") or ε - x_0 ("flow").

    Raises:
        SceditError: any other prediction type.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return latents
    if prediction_type == FLOW:
        return noise - latents
    _known(prediction_type)
    signal, spread = _signal_and_spread(timesteps, alphas_cumprod, latents)
    return signal * noise - spread * latents


def noise_prediction_loss(
    unet_output: Tensor,
    noise: Tensor,
    latents: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    prediction_type: str,
    weighting: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the loss of each sample, (B,): the mean squared error over its elements, times `weighting` (B,) if given.

    With a non-negative `mask` (B, 1, h, w) the mean is weighted by it; a sample whose mask is 0 everywhere has a loss
    of 0. The loss is computed in at least float32, in any dtype of the U-Net's output.
    """
    wanted = target(prediction_type, noise, latents, timesteps, alphas_cumprod)
    precision = torch.promote_types(unet_output.dtype, torch.float32)
    errors = (unet_output.to(precision) - wanted.to(precision)).square()
    if mask is None:
        loss = errors.flatten(1).mean(dim=1)
    else:
        shares = mask.to(errors).expand_as(errors).flatten(1)
        loss = (errors.flatten(1) * shares).sum(dim=1) / shares.sum(dim=1).clamp(min=torch.finfo(precision).tiny)
    return loss if weighting is None else loss * weighting.to(loss)


def min_snr_weights(timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str, gamma: float = 5.0) -> Tensor:
    """Return the Min-SNR-γ weights (Hang et al. 2023, arXiv 2303.09556), (B,).

    With SNR = ᾱ/(1-ᾱ), the squared error in x_0 has the weight min(SNR, γ). It is 1/SNR of the squared error in ε and
    1/(SNR + 1) of that in v, so their weights are min(SNR, γ)/SNR and min(SNR, γ)/(SNR + 1). In flow matching,
    SNR = (1-σ)²/σ² and the weight is σ²·min(SNR, γ). All are finite at zero terminal SNR too.
    """
    _known(prediction_type)
    alpha = _in_double(alphas_cumprod.to(timesteps.device)[timesteps])
    if prediction_type == FLOW:
        return torch.minimum(alpha, gamma * (1 - alpha.sqrt()).square()).float()
    snr = alpha / (1 - alpha)
    clipped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1.0).float()  # min(SNR, γ)/SNR without dividing 0 by 0
    return (clipped / (snr + 1) if prediction_type == "v_prediction" else clipped).float()


def _signal_and_spread(
    timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor, flow: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the factors of x_0 and ε as (B, 1, 1, 1), rounded to the dtype of `like` only at the end."""
    alpha = _in_double(alphas_cumprod.to(like.device)[timesteps]).view(-1, *[1] * (like.dim() - 1))
    signal = alpha.sqrt()
    return signal.to(like), (1 - signal if flow else (1 - alpha).sqrt()).to(like)


def _in_double(values: Tensor) -> Tensor:
    """Return `values` in float64, except on Apple's accelerators, which have none."""
    return values if values.device.type == "mps" else values.double()


def _known(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise SceditError(
            f"prediction type {prediction_type!r} is not known", hint=f"one of {', '.join(PREDICTION_TYPES)}"
        )
