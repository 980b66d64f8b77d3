"""The training step that is compared, on inputs of a base's shapes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scedit_cli.benchmark.architecture import Architecture
from scedit_cli.benchmark.methods import Inputs, TrainableMethod
from scedit_cli.core.objective import FLOW, add_noise, noise_prediction_loss
from scedit_cli.core.tuners import HINT_SCALE

LEARNING_RATE = 1e-5


def random_batch(
    base: Architecture,
    batch: int,
    resolution: int | tuple[int, int],
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Inputs, Tensor]:
    """Return random inputs as from a cache, with clean latents, and the noise to be predicted.

    Args:
        resolution: the side of square images in pixels, or their height and width.
    """
    draw = torch.Generator().manual_seed(0) if str(device) != "meta" else None
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    home = "meta" if draw is None else "cpu"

    def normal(*shape: int, rows: int = batch) -> Tensor:
        return torch.randn(rows, *shape, generator=draw, device=home).to(device, dtype)

    text_width, channels = base.text_width, base.config["in_channels"]
    if base.kind == "UNetSpatioTemporalConditionModel":  # the first frame's embedding, and rate, motion and noise
        text = {"encoder_hidden_states": normal(1, text_width), "added_time_ids": normal(3)}
    else:  # a motion U-Net takes a text for each frame
        text = {"encoder_hidden_states": normal(base.tokens, text_width, rows=batch * (base.frames or 1))}
    if base.pooled:
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * batch, device=home)
        text["added_cond_kwargs"] = {"text_embeds": normal(base.pooled), "time_ids": sizes.to(device, dtype)}
    if base.kind == "DreamLiteUNetModel":
        sizes = torch.tensor([[width, height]] * batch, device=home).to(device, dtype)
        mask = torch.ones(batch, base.tokens, device=device, dtype=dtype)
        text |= {"added_cond_kwargs": {"time_ids": sizes}, "encoder_attention_mask": mask}
    timesteps = torch.randint(len(base.alphas), (batch,), generator=draw, device=home).to(device)
    hint = torch.rand(batch, 3, height, width, generator=draw, device=home).to(device)
    size = [height // HINT_SCALE, width // HINT_SCALE]
    axis = frames_axis(base)
    shape = [channels, *size]
    if axis:
        shape.insert(axis - 1, base.frames)
    latents, noise = (normal(*shape) for _ in range(2))
    return Inputs(latents, timesteps, hint, text), noise


def frames_axis(base: Architecture) -> int | None:
    """Return the axis of latents that counts a video's frames; None for images."""
    return {"UNetMotionModel": 2, "UNetSpatioTemporalConditionModel": 1}.get(base.kind)


def loss_of(trainable: TrainableMethod, inputs: Inputs, noise: Tensor, base: Architecture) -> Tensor:
    """Return the mean noise-prediction loss of a batch of clean latents with `noise` added."""
    alphas = base.alphas.to(inputs.latents.device)
    latents = add_noise(inputs.latents, noise, inputs.timesteps, alphas, base.prediction_type == FLOW)
    noisy = replace(inputs, latents=latents)
    answer = trainable.predict(noisy)
    channels = 2 if frames_axis(base) == 1 else 1
    wanted = (each.narrow(channels, 0, answer.shape[channels]) for each in (noise, inputs.latents))
    return noise_prediction_loss(answer, *wanted, inputs.timesteps, alphas, base.prediction_type).mean()


def new_optimizer(trainable: TrainableMethod, rate: float = LEARNING_RATE) -> torch.optim.Optimizer:
    weights = trainable.weights
    fused = weights[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(weights, lr=rate, fused=fused)
