"""A model of PyTorch's caching allocator for CUDA: the memory that a card holds is more than what tensors take."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from scedit_cli.training.memory_tracker import LiveStorages

# Sizes of c10/cuda/CUDACachingAllocator with its default settings, in bytes.
_ROUND = 512  # what every request is rounded up to
_SMALL = 2**20  # requests up to here come from segments of their own pool
_SMALL_SEGMENT, _MEDIUM_SEGMENT, _MEDIUM = 2 * 2**20, 20 * 2**20, 10 * 2**20
_LARGE_ROUND = 2 * 2**20  # what a segment for a large request is rounded up to


@dataclass(eq=False)
class Block:
    """A part of a segment, free or not, with its neighbours in the segment."""

    size: int
    address: int
    pool: int
    is_free: bool = True
    before: Block | None = None
    after: Block | None = None

    @property
    def key(self) -> tuple[int, int]:
        return self.size, self.address


class CachingAllocator:
    """The allocator of one stream on a card whose memory does not run out; no memory is taken.

    A request gets the smallest free block that holds it, split where enough is left, or a new segment. Freed blocks
    join their free neighbours; segments stay.

    Attributes:
        reserved: bytes of all segments.
        allocated, peak_allocated: bytes of the blocks in use, and the most there were.
    """

    def __init__(self) -> None:
        self.reserved = self.allocated = self.peak_allocated = 0
        self._free: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])  # small and large
        self._blocks: dict[int, Block] = {}  # by address
        self._end = 0

    def malloc(self, size: int) -> Block:
        """Return a block for `size` bytes."""
        size = max(_ROUND, -(-size // _ROUND) * _ROUND)
        pool = int(size > _SMALL)
        free = self._free[pool]
        at = bisect_left(free, (size, -1))
        block = self._blocks[free.pop(at)[1]] if at < len(free) else self._segment(size, pool)
        left = block.size - size
        if left > _SMALL if pool else left >= _ROUND:
            rest = Block(left, block.address + size, pool, True, block, block.after)
            if rest.after:
                rest.after.before = rest
            block.size, block.after = size, rest
            self._blocks[rest.address] = rest
            insort(free, rest.key)
        block.is_free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Take back a block that `malloc` returned."""
        self.allocated -= block.size
        free = self._free[block.pool]
        if (after := block.after) and after.is_free:
            free.remove(after.key)
            self._join(block, after)
        if (before := block.before) and before.is_free:
            free.remove(before.key)
            self._join(before, block)
            block = before
        block.is_free = True
        insort(free, block.key)

    def _segment(self, size: int, pool: int) -> Block:
        if not pool:
            size = _SMALL_SEGMENT
        elif size < _MEDIUM:
            size = _MEDIUM_SEGMENT
        else:
            size = -(-size // _LARGE_ROUND) * _LARGE_ROUND
        block = self._blocks[self._end] = Block(size, self._end, pool)
        self._end += size
        self.reserved += size
        return block

    def _join(self, first: Block, second: Block) -> None:
        first.size += second.size
        first.after = second.after
        if first.after:
            first.after.before = first
        del self._blocks[second.address]


class Reserved(LiveStorages):
    """Live storages that come from a `CachingAllocator`, in the order of the program's own requests."""

    def __init__(self, label: str = "other") -> None:
        super().__init__(label)
        self.allocator = CachingAllocator()
        self._held_blocks: dict[int, Block] = {}

    def _enter(self, key: int, *about: object) -> None:
        self._held_blocks[key] = self.allocator.malloc(about[-1])
        super()._enter(key, *about)

    def _leave(self, key: int) -> None:
        self.allocator.free(self._held_blocks.pop(key))
        super()._leave(key)
