"""Sharing of work among the processes of one launch, such as `accelerate launch` or torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # long enough for the slowest process; if one dies, the launcher ends them all


@dataclass(frozen=True)
class Share:
    """The share of process `index` of `count`; on its own machine it is process `local_index` of `local_count`."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @classmethod
    def mine(cls) -> Share:
        """Return this process's share, from the launcher's environment variables; all work if there is one process."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes the files which are written once."""
        return self.index == 0

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return every `count`-th item from `index` on, which spreads long and short items evenly."""
        return items[self.index :: self.count]

    def gathered(self, items: list[T]) -> list[T]:
        """Return the items of all processes, in every process, after waiting for the slowest."""
        return items if self.count == 1 else _gather(items)


def _gather(items: list[T]) -> list[T]:
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_PATIENCE)
    parts: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    distributed.destroy_process_group()
    return [item for part in parts for item in part]


def launched_rank() -> int:
    """Return the number of this process among those that a launcher has started; 0 without one."""
    return int(os.environ.get("RANK", "0"))
