"""Work that the processes of one launch share, such as those of `accelerate launch` or torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # for the slowest; where one dies, its launcher ends them all


@dataclass(frozen=True)
class Share:
    """What process `index` of `count` does; `local_index` counts those of its machine, `local_count` of them."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @classmethod
    def mine(cls) -> Share:
        """As the launcher tells in the environment; everything where nobody has launched several."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.index == 0

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th item: long and short ones spread alike."""
        return items[self.index :: self.count]

    def gathered(self, items: list[T]) -> list[T]:
        """The items of all processes, in each of them. Waits for the slowest."""
        return items if self.count == 1 else _gather(items)


def _gather(items: list[T]) -> list[T]:
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_PATIENCE)
    parts: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, items)
    distributed.destroy_process_group()
    return [item for part in parts for item in part]
