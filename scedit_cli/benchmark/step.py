"""The training step that is compared, on inputs of a base's shapes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scedit_cli.benchmark.architecture import Architecture
from scedit_cli.benchmark.methods import Inputs, TrainableMethod
from scedit_cli.core.objective import add_noise, noise_prediction_loss
from scedit_cli.core.tuners import HINT_SCALE

LEARNING_RATE = 1e-5


def random_batch(
    base: Architecture, batch: int, resolution: int, dtype: torch.dtype, device: torch.device | str
) -> tuple[Inputs, Tensor]:
    """Return random inputs as from a cache, with clean latents, and the noise to be predicted."""
    draw = torch.Generator().manual_seed(0) if str(device) != "meta" else None
    side = resolution // HINT_SCALE
    home = "meta" if draw is None else "cpu"

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw, device=home).to(device, dtype)

    text = {"encoder_hidden_states": normal(base.tokens, base.config["cross_attention_dim"])}
    if base.pooled:
        sizes = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]] * batch, device=home)
        text["added_cond_kwargs"] = {"text_embeds": normal(base.pooled), "time_ids": sizes.to(device, dtype)}
    timesteps = torch.randint(len(base.alphas), (batch,), generator=draw, device=home).to(device)
    hint = torch.rand(batch, 3, resolution, resolution, generator=draw, device=home).to(device)
    latents, noise = (normal(base.config["in_channels"], side, side) for _ in range(2))
    return Inputs(latents, timesteps, hint, text), noise


def loss_of(trainee: TrainableMethod, inputs: Inputs, noise: Tensor, base: Architecture) -> Tensor:
    """Return the mean noise-prediction loss of a batch of clean latents with `noise` added."""
    alphas = base.alphas.to(inputs.latents.device)
    noisy = replace(inputs, latents=add_noise(inputs.latents, noise, inputs.timesteps, alphas))
    answer = trainee.predict(noisy)
    wanted = (each[:, : answer.shape[1]] for each in (noise, inputs.latents))
    return noise_prediction_loss(answer, *wanted, inputs.timesteps, alphas, base.prediction_type).mean()


def new_optimizer(trainee: TrainableMethod, rate: float = LEARNING_RATE) -> torch.optim.Optimizer:
    weights = trainee.weights
    fused = weights[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(weights, lr=rate, fused=fused)
