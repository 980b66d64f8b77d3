"""Batches for training, made ready by threads while the step before is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scedit_cli.data.cache import Cache
from scedit_cli.data.sampler import StatefulSampler


@dataclass(frozen=True)
class Batch:
    """What a training step sees of B pictures of one size, on the CPU until it is sent elsewhere.

    Attributes:
        indices: the pictures' places in the dataset.
        sizes: of SDXL: (B, 6) as `Base.unet_arguments` takes them: the size of the picture each was made from, where
            it was cut (top, left), and its own size; heights before widths.
        moments: (B, 2C, h, w) float32, of the latents' distributions, unscaled.
        text: the base's encoded captions by name, each (B, ...).
        hints: (B, C, H, W) float32 in [0, 1] by kind.
        weights: (B,) of their losses; None where all are 1.
    """

    indices: list[int]
    sizes: Tensor
    moments: Tensor
    text: dict[str, Tensor]
    hints: dict[str, Tensor]
    weights: Tensor | None = None

    def on(self, device: torch.device) -> Batch:
        """The batch with all that the U-Net and the tuners see on `device`; the moments stay where they are."""
        text, hints = ({name: sent(each, device) for name, each in part.items()} for part in (self.text, self.hints))
        weights = None if self.weights is None else sent(self.weights, device)
        return replace(self, sizes=sent(self.sizes, device), text=text, hints=hints, weights=weights)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the CPU on `device`. A card goes on with what it is at meanwhile: from memory that can be swapped out
    it would have to end that first."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def batches(cache: Cache, sampler: StatefulSampler, workers: int = 2) -> Iterator[Batch]:
    """Batches without end, from where the sampler stands.

    `sampler.step` counts the batches that were handed over, not those made ready, so that its state at any moment
    resumes with the first batch the caller has not had.
    """
    ahead: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        try:
            while True:
                while len(ahead) <= workers:
                    step = sampler.step + len(ahead)
                    ahead.append(pool.submit(load_batch, cache, step, sampler.batch(step)))
                batch = ahead.popleft().result()
                sampler.step += 1
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def load_batch(cache: Cache, step: int, indices: list[int]) -> Batch:
    """These pictures of the cache; what is made of them while training is made as at `step`."""
    places = torch.tensor(indices)
    return Batch(
        indices=indices,
        sizes=cache.sizes[places],
        moments=cache.moments_of(indices),
        text=cache.text_of(indices),
        hints={kind: hints.batch(indices, step) for kind, hints in cache.hints.items()},
        weights=None if cache.weights is None else cache.weights[places],
    )
