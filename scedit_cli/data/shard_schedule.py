"""The order in which shards are read without end, computed from their sample counts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Turn:
    """A shard that a lane reads: its number, and the sample at which to begin."""

    shard: int
    skip: int


class ShardSchedule:
    """Shards dealt to `lanes` readers. Each epoch shuffles the shards and deals each of them to one lane.

    Shards hold different numbers of samples, so lanes finish their epochs at different times. A lane's sequence is a
    function of the arguments alone, so any process can enter it anywhere without reading what comes before.

    Args:
        counts: the number of samples in each shard, at least 1.
    """

    def __init__(self, counts: Sequence[int], lanes: int, seed: int) -> None:
        self.counts, self.count, self.seed = tuple(counts), min(lanes, len(counts)), seed
        self.order = lru_cache(maxsize=8)(self._order)

    def dealt(self, lane: int, epoch: int) -> list[int]:
        """Return the shards that `lane` reads in `epoch`, in their order."""
        return self.order(epoch)[lane :: self.count]

    def find(self, lane: int, index: int) -> tuple[int, list[Turn]]:
        """Return the epoch in which `lane` reads its sample `index`, and its turns from that sample to the epoch's end.
        """
        epoch = 0
        while True:
            shards = self.dealt(lane, epoch)
            for place, shard in enumerate(shards):
                if index < self.counts[shard]:
                    return epoch, [Turn(shard, index), *(Turn(other, 0) for other in shards[place + 1 :])]
                index -= self.counts[shard]
            epoch += 1

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.counts)).tolist()
