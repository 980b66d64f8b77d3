"""Batches for training, loaded by threads while the step before is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from scedit_cli.data.cache import Cache
from scedit_cli.data.sampler import StatefulSampler


@dataclass(frozen=True)
class Batch:
    """The input of a training step: B images of one size, on the CPU until `on` moves them.

    Attributes:
        indices: the images' places in the dataset.
        sizes: (B, 6) for SDXL, as `Base.unet_arguments` takes them: height and width of the source image, top and left
            of the crop, height and width of the image.
        moments: (B, 2C, h, w) float32 moments of the latents' distributions, unscaled.
        text: the base's encoded captions by name, each (B, ...).
        hints: (B, C, H, W) float32 in [0, 1] by kind.
        weights: (B,) factors on the losses; None where all are 1.
    """

    indices: list[int]
    sizes: Tensor
    moments: Tensor
    text: dict[str, Tensor]
    hints: dict[str, Tensor]
    weights: Tensor | None = None

    def on(self, device: torch.device) -> Batch:
        """Return the batch with all inputs of the U-Net and the tuners on `device`; the moments stay where they are."""
        text, hints = ({name: sent(each, device) for name, each in part.items()} for part in (self.text, self.hints))
        weights = None if self.weights is None else sent(self.weights, device)
        return replace(self, sizes=sent(self.sizes, device), text=text, hints=hints, weights=weights)

    def cut(self, within: slice) -> Batch:
        """Return a part of the batch's images."""
        return Batch(*(_cut(getattr(self, each.name), within) for each in fields(self)))


def _cut(value: Any, within: slice) -> Any:
    if isinstance(value, dict):
        return {name: each[within] for name, each in value.items()}
    return None if value is None else value[within]


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return `values`, which are on the CPU, on `device`. A GPU keeps computing during the copy because the memory is
    pinned: before a copy from pageable memory it would have to finish its work."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def batches(cache: Cache, sampler: StatefulSampler, workers: int = 2) -> Iterator[Batch]:
    """Yield batches without end, from the sampler's current step.

    `sampler.step` counts the batches that were yielded, not those loaded ahead, so that its state at any moment resumes
    with the first batch that the caller has not received.
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
    """Load the images `indices` of the cache as a batch; hints that are made while training are those of `step`."""
    places = torch.tensor(indices)
    return Batch(
        indices=indices,
        sizes=cache.sizes[places],
        moments=cache.moments_of(indices),
        text=cache.text_of(indices),
        hints={kind: hints.batch(indices, step) for kind, hints in cache.hints.items()},
        weights=None if cache.weights is None else cache.weights[places],
    )
