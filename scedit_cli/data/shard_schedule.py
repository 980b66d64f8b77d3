"""Where each sample of an endless, shuffled reading of shards stands, told by numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Turn:
    """A shard to be read by a lane: its number, and at which of its samples to begin."""

    shard: int
    skip: int


class ShardSchedule:
    """Shards dealt to `lanes` readers, shuffled and dealt anew in each epoch, in which every shard has one reader.

    Shards hold unlike numbers of samples, so lanes go through their epochs at their own pace. A lane's sequence is a
    function of the arguments alone: it can be entered anywhere without having been read, by any process.

    Args:
        counts: how many samples each shard holds, more than 0.
    """

    def __init__(self, counts: Sequence[int], lanes: int, seed: int) -> None:
        self.counts, self.count, self.seed = tuple(counts), min(lanes, len(counts)), seed
        self.order = lru_cache(maxsize=8)(self._order)

    def dealt(self, lane: int, epoch: int) -> list[int]:
        """The shards that `lane` reads in `epoch`, in their order."""
        return self.order(epoch)[lane :: self.count]

    def find(self, lane: int, index: int) -> tuple[int, list[Turn]]:
        """The epoch in which sample `index` of `lane` is read, and what the lane reads from there to its end."""
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
