"""Condition pictures as hints, held in memory where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scedit_cli.data.pictures import open_picture

_IN_MEMORY = 2**30  # bytes; what is larger is read from disk batch by batch


class Hints:
    """The condition pictures of one kind. `hints[indices]` is uint8 (B, 3, H, W).

    Args:
        paths: one picture per index, all of `size` (width, height).
        in_memory: the most bytes to hold; larger sets are read when asked for.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], in_memory: int = _IN_MEMORY) -> None:
        self.paths = paths
        self._held: Tensor | None = None
        if len(paths) * 3 * size[0] * size[1] <= in_memory:
            self._held = torch.empty((len(paths), 3, size[1], size[0]), dtype=torch.uint8)
            with ThreadPoolExecutor(4) as pool:
                for index, hint in enumerate(pool.map(read_uint8, paths)):
                    self._held[index] = hint

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Tensor:
        if self._held is not None:
            return self._held[torch.tensor(indices)]
        return torch.stack([read_uint8(self.paths[index]) for index in indices])


def read_uint8(path: Path) -> Tensor:
    """The picture at `path` as uint8 (3, H, W).

    Raises:
        SceditError: no readable picture is there.
    """
    return torch.from_numpy(np.array(open_picture(path))).permute(2, 0, 1)
