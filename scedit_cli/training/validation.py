"""The loss on images that no step trains on, at fixed noise and timesteps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch

from scedit_cli.data.cache import Cache
from scedit_cli.data.loader import load_batch
from scedit_cli.data.sampler import part_of
from scedit_cli.recipe import ValidationSection
from scedit_cli.training.objective import generator_of
from scedit_cli.training.trainer import Trainer
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError

_MOST_HELD_OUT = 32  # unless the recipe sets a number


def held_out_count(count: int, options: ValidationSection) -> int:
    """Return how many of `count` images are held out: the recipe's number, else a tenth, at most 32."""
    return min(count // 10, _MOST_HELD_OUT) if options.pictures is None else options.pictures


def split(count: int, options: ValidationSection) -> tuple[list[int], list[int]]:
    """Return the indices of the images to train on and of those held out, of `count`; fixed by `options`.

    Raises:
        SceditError: no image would be left to train on.
    """
    held_out = held_out_count(count, options)
    if held_out >= count:
        raise SceditError(
            f"validation.pictures: {held_out} of {count} images would be held out",
            hint="leave some to learn from; where it is left out, a tenth is held out",
        )
    order = np.random.default_rng(options.seed).permutation(count).tolist()
    return sorted(order[held_out:]), sorted(order[:held_out])


class HeldOut:
    """The measurement of a tuner on the held-out images of the trainer's data, by their `indices`.

    Every image has the mean of its latents' distribution, its own fixed noise and `options.timesteps` evenly spread
    timesteps. The loss is the plain squared error, without the recipe's weighting and dropout. Between two steps, or
    two runs on one base and the same images, it therefore differs by the weights alone.
    """

    def __init__(self, indices: Sequence[int], options: ValidationSection, processes: Processes) -> None:
        self.indices, self.options, self._processes = indices, options, processes

    @torch.no_grad()
    def loss(self, trainer: Trainer) -> float:
        """Return the mean over images and timesteps with the tuner's final weights; all processes call it together."""
        total = len(trainer.objective.alphas)
        sum_ = torch.zeros(1, dtype=torch.float64)
        processes = Processes() if self._processes.shards_base else self._processes  # a sharded U-Net: equal work
        own = part_of(range(len(self.indices)), processes.index, processes.count)
        options = trainer.options
        at_once = options.micro_batch_size or -(-options.batch_size // processes.count)
        with trainer.finished():
            for indices in _of_one_size(self.indices[own.start : own.stop], trainer.cache, at_once):
                batch = load_batch(trainer.cache, 0, indices).on(trainer.device)
                latents = trainer.base.latents_from(batch.moments)
                noise = [torch.randn(latents.shape[1:], generator=generator_of(self.options.seed, i)) for i in indices]
                for number in range(self.options.timesteps):
                    timestep = int((number + 0.5) / self.options.timesteps * total)
                    timesteps = torch.full((len(indices),), timestep)
                    noised = trainer.objective.noised(latents, torch.stack(noise), timesteps)
                    losses = trainer.objective.plain_losses(trainer.output(batch, noised, batch.text), noised)
                    sum_ += losses.cpu().double().sum()
        mean = processes.sum(sum_) / (len(self.indices) * self.options.timesteps)
        return mean.item()


def _of_one_size(images: Sequence[int], cache: Cache, at_once: int) -> Iterator[list[int]]:
    """Yield all of `images` in lists of one size, at most `at_once` long."""
    sizes = cache.buckets.tolist()
    for _, group in groupby(sorted(images, key=lambda index: sizes[index]), key=lambda index: sizes[index]):
        alike = list(group)
        yield from (alike[at : at + at_once] for at in range(0, len(alike), at_once))
