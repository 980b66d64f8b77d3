"""The objective of a training step: noisy latents at random timesteps, and the loss of the U-Net's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scedit_cli.core.objective import FLOW, add_noise, min_snr_weights, noise_prediction_loss
from scedit_cli.data.loader import sent
from scedit_cli.models.base import Base
from scedit_cli.recipe import TrainSection
from scedit_cli.training.schedules import draw_timesteps


class StepRandomness:
    """The random values of a step, for the images at `places` of its batch of `batch_size`.

    They are drawn on the CPU from the seed, the step and an image's place alone, so that an image gets the same noise
    in any process and any part of the batch.
    """

    def __init__(self, seed: int, step: int, places: Sequence[int], batch_size: int) -> None:
        self.of_images = [generator_of(seed, step, place) for place in places]
        self._of_step = generator_of(seed, step)
        self._places = torch.tensor(places)
        self._batch_size = batch_size

    def happens(self, share: float) -> Tensor:
        """Return a random choice of images, (B,) bool, each with probability `share`."""
        return torch.rand(self._batch_size, generator=self._of_step)[self._places] < share

    def timesteps(self, total: int, options: TrainSection) -> Tensor:
        """Return timesteps in [0, total), (B,)."""
        drawn = draw_timesteps(
            options.timesteps,
            self._batch_size,
            total,
            self._of_step,
            shift=options.timestep_shift,
            mean=options.timestep_mean,
            deviation=options.timestep_deviation,
            between=options.timestep_range,
        )
        return drawn[self._places]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal values, (B, *shape)."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.of_images])


@dataclass(frozen=True)
class NoisyBatch:
    """Noisy latents (B, C, h, w) with the latents, noise and timesteps behind them, on the base's device.

    Attributes:
        timesteps: the noise levels as integers, (B,).
        times: the noise levels as passed to the U-Net, (B,).
    """

    noisy: Tensor
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    times: Tensor


class Objective:
    """The loss that a recipe describes, for the base that was opened for this recipe."""

    def __init__(self, base: Base, options: TrainSection) -> None:
        self.options = options
        levels = base.noise_levels
        self.prediction_type, self.alphas = levels.prediction_type, levels.alphas_on(base.device)
        self._times, self._sign, self._sigma_data = levels.times, levels.sign, levels.sigma_data

    def add_noise(self, latents: Tensor, draws: StepRandomness) -> NoisyBatch:
        """Return the latents (B, C, h, w), on the CPU, with the noise of `draws`."""
        noise = draws.normal(latents.shape[1:])
        timesteps = draws.timesteps(len(self.alphas), self.options)
        if self.options.noise_offset:  # https://www.crosslabs.org/blog/diffusion-with-offset-noise
            noise = noise + self.options.noise_offset * draws.normal((latents.shape[1], 1, 1))
        seen = noise
        if self.options.input_perturbation:  # Ning et al. 2023, arXiv 2301.11706
            seen = noise + self.options.input_perturbation * draws.normal(latents.shape[1:])
        return self.noised(latents, noise, timesteps, seen)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor, seen: Tensor | None = None) -> NoisyBatch:
        """Return the noisy latents for this noise. Where `seen` is given, it is added to the latents in place of
        `noise`, which remains the target. All arguments are on the CPU."""
        given = latents / self._sigma_data, noise, timesteps, noise if seen is None else seen, self._times[timesteps]
        latents, noise, timesteps, seen, times = (sent(each, self.alphas.device) for each in given)
        noisy = add_noise(latents, seen, timesteps, self.alphas, self.prediction_type == FLOW)
        return NoisyBatch(noisy, latents, noise, timesteps, times)

    def losses(
        self, output: Tensor, noised: NoisyBatch, weights: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the recipe's loss of each image, (B,), times `weights` (B,) and under `mask` (B, 1, h, w)."""
        if self.options.loss_weighting == "min-snr":
            by_noise = min_snr_weights(noised.timesteps, self.alphas, self.prediction_type, self.options.snr_gamma)
            weights = by_noise if weights is None else weights.to(by_noise) * by_noise
        return self.plain_losses(output, noised, weights, mask)

    def plain_losses(
        self, output: Tensor, noised: NoisyBatch, weights: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the mean squared error of each image, (B,), without the recipe's weighting by noise level."""
        known = noised.noise, noised.latents, noised.timesteps, self.alphas, self.prediction_type
        return noise_prediction_loss(self._sign * output, *known, weights, mask)


def generator_of(*numbers: int) -> torch.Generator:
    """Return a generator on the CPU that these numbers determine.

    Zeros at their end do not count: a step shares its sequence with place 0, which uses it for the small deviation of
    an autoencoder's latents. A change of this would change every run, also in the middle of resumed ones.
    """
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))
