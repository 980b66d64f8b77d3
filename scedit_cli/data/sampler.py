"""The choice of images for each batch: shuffled again in each epoch by a seed, and resumable at any batch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from scedit_cli.utils.errors import SceditError


class EndlessBatches:
    """The state of an endless sequence of batches: `step`, the number of batches so far. Batch k is a function of the
    data, the arguments and k alone.

    Args:
        count: the number of images in a pass.
        fingerprint: that of the data, and of the settings that decide their order besides the seed.
    """

    def __init__(self, count: int, batch_size: int, seed: int, fingerprint: str) -> None:
        self.count, self.batch_size, self.seed, self.fingerprint = count, batch_size, seed, fingerprint
        self.step = 0

    @property
    def epoch(self) -> int:
        """The number of complete passes."""
        return self.step * self.batch_size // self.count

    def state_dict(self) -> dict[str, int | str]:
        return {
            "count": self.count,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "data": self.fingerprint,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Continue after the batch at which `state` was taken, with any number of processes.

        Raises:
            SceditError: the state belongs to other data, another batch size or another seed.
        """
        own = self.state_dict()
        state = {"data": own["data"]} | state  # older checkpoints have no "data"
        changed = [key for key in own if key != "step" and state.get(key) != own[key]]
        if changed:
            differences = ", ".join(f"{key} was {state.get(key)} and is {own[key]}" for key in changed if key != "data")
            others = "the images, captions, condition images or weights are others, or in another order or size"
            raise SceditError(
                f"the data to resume on is not what it was: {differences or others}",
                hint="bring it back as it was (data.path), or start a new run",
            )
        self.step = state["step"]


class StatefulSampler(EndlessBatches):
    """An endless sequence of batches of `indices` (the numbers below `indices` where it is an int).

    The epochs' shuffles are joined and cut into batches of `batch_size`: every batch is full, a batch may span epochs,
    and within an epoch every index comes once. Where there are fewer indices than places in a batch, a batch holds each
    about equally often; since noise and timestep are drawn by place, the gradient is then a mean over several draws,
    and over the epochs all indices weigh the same. With `groups`, every batch is of one group (images of one size):
    each group has its own shuffles, and the groups' batches come in a shuffled order, in proportion to the groups'
    sizes.

    Args:
        groups: the group of each of the `indices`.
        share: (number, of how many): yield only this process' part of each batch. The parts are as equal as possible,
            and in their order they make up the batch of share (0, 1).
        data: a fingerprint of the data that the indices stand for.
    """

    def __init__(
        self,
        indices: int | Sequence[int],
        batch_size: int,
        seed: int = 0,
        groups: Sequence[int] | None = None,
        share: tuple[int, int] = (0, 1),
        data: str = "",
    ) -> None:
        every = np.arange(indices) if isinstance(indices, int) else np.asarray(indices)
        if not len(every) or batch_size < 1:
            raise ValueError(f"{len(every)} images in batches of {batch_size}")
        super().__init__(len(every), batch_size, seed, data)
        self.places = part_of(range(batch_size), *share)
        of = np.zeros(len(every), int) if groups is None else np.asarray(groups)
        self._members = [every[of == group] for group in np.unique(of)]
        self._shuffled = lru_cache(maxsize=2 * len(self._members))(self._shuffle)  # a batch may span two epochs
        self._plan = lru_cache(maxsize=2)(self._order)

    def batch(self, step: int) -> list[int]:
        """Return this process' indices of batch `step`."""
        if len(self._members) == 1:
            group, number = 0, step
        else:
            most = (step + len(self._members) + 1) * self.batch_size // self.count + 1
            epoch = bisect_right(range(most + 1), step, key=lambda epoch: sum(self._made_before(epoch))) - 1
            group, number = self._plan(epoch)[step - sum(self._made_before(epoch))]
        members = self._members[group]
        places = (divmod(number * self.batch_size + place, len(members)) for place in self.places)
        return [int(members[self._shuffled(group, epoch)[index]]) for epoch, index in places]

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            self.step += 1
            yield self.batch(self.step - 1)

    def _made_before(self, epoch: int) -> list[int]:
        """Return how many batches of each group come before `epoch`."""
        return [len(members) * epoch // self.batch_size for members in self._members]

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        """Return the batches of `epoch` as (group, number within the group)."""
        spans = zip(self._made_before(epoch), self._made_before(epoch + 1), strict=True)
        batches = [(group, number) for group, span in enumerate(spans) for number in range(*span)]
        np.random.default_rng([self.seed, epoch]).shuffle(batches)
        return [tuple(map(int, batch)) for batch in batches]

    def _shuffle(self, group: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, group, epoch]).permutation(len(self._members[group]))


def part_of(places: range, number: int, parts: int) -> range:
    """Return part `number` of `parts` parts of `places`, whose lengths differ by at most one."""
    return places[len(places) * number // parts : len(places) * (number + 1) // parts]
