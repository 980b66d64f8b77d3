"""Which pictures are in which batch: shuffled anew each epoch by a seed, and resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from scedit_cli.errors import SceditError


class StatefulSampler:
    """An endless sequence of batches of indices below `count`.

    The epochs' shuffles, one after the other, are cut into batches of `batch_size`, so every batch is full, a batch may
    span epochs, and within an epoch every index comes once. Batch k is a function of (count, batch_size, seed, k)
    alone: its whole state is `step`, the number of batches given out.
    """

    def __init__(self, count: int, batch_size: int, seed: int = 0) -> None:
        if count < 1 or batch_size < 1:
            raise ValueError(f"{count} pictures in batches of {batch_size}")
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.step = 0
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)  # a batch that spans epochs needs two

    @property
    def epoch(self) -> int:
        """Complete passes given out."""
        return self.step * self.batch_size // self.count

    def batch(self, step: int) -> list[int]:
        """The indices of batch `step`."""
        first = step * self.batch_size
        places = (divmod(place, self.count) for place in range(first, first + self.batch_size))
        return [int(self._shuffled(epoch)[index]) for epoch, index in places]

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            self.step += 1
            yield self.batch(self.step - 1)

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count, "batch_size": self.batch_size, "seed": self.seed, "step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch at which `state` was taken.

        Raises:
            SceditError: the state is of other data, another batch size or another seed.
        """
        own = self.state_dict()
        if changed := [
            f"{key} was {state.get(key)} and is {own[key]}"
            for key in own
            if key != "step" and state.get(key) != own[key]
        ]:
            raise SceditError(f"the data to resume on is not what it was: {', '.join(changed)}", hint="start a new run")
        self.step = state["step"]

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)
