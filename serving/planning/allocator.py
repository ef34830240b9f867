"""torch's caching allocator on paper: which blocks it would take from CUDA for a sequence of allocations and releases.

The rules and numbers are those of `CUDACachingAllocator.cpp` (c10/cuda, torch 2.13): requests of up to 1 MiB share segments of
2 MiB, those below 10 MiB segments of 20 MiB, and larger ones get a segment of their own, a multiple of 2 MiB. The smallest free
block that is large enough is taken, of several the first in memory, and split where enough is left over. Segments are taken to
lie one after another.
"""

import bisect
from dataclasses import dataclass
from typing import Self

_MIB = 2**20
_SMALLEST = 512
_SMALL, _SMALL_SEGMENT = _MIB, 2 * _MIB
_MEDIUM, _MEDIUM_SEGMENT = 10 * _MIB, 20 * _MIB
_ROUNDED = 2 * _MIB
# A block that is not split may be larger than the request by so much (`max_non_split_rounding_size`).
_UNSPLIT_OVER = 20 * _MIB


@dataclass(eq=False)
class Block:
    """A part of a segment, in use or free, between its neighbours."""

    address: int
    size: int
    small: bool
    free: bool = True
    before: Self | None = None
    after: Self | None = None


class Allocator:
    """Blocks of at least `max_split_size` bytes are never split (torch's `max_split_size_mb`)."""

    def __init__(self, max_split_size: int) -> None:
        self._max_split_size = max_split_size
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._end = 0
        self._segments: list[Block] = []

    def allocate(self, size: int) -> Block:
        """The block that a request of so many bytes gets."""
        size = -(-size // _SMALLEST) * _SMALLEST
        small = size <= _SMALL
        block = self._fitting(size, small) or self._segment(size, small)
        left = block.size - size
        if left >= _SMALLEST if small else size < self._max_split_size and left > _SMALL:
            rest = Block(block.address + size, left, small, before=block, after=block.after)
            if block.after:
                block.after.before = rest
            block.size, block.after = size, rest
            self._put(rest)
        block.free = False
        return block

    def release(self, block: Block) -> None:
        """Gives the block back; it becomes one with free neighbours."""
        block.free = True
        for other in (block.before, block.after):
            if other and other.free:
                self._take(other)
        if (after := block.after) and after.free:
            block.size, block.after = block.size + after.size, after.after
            if block.after:
                block.after.before = block
        if (before := block.before) and before.free:
            before.size, before.after = before.size + block.size, block.after
            if before.after:
                before.after.before = before
            block = before
        self._put(block)

    def held(self) -> tuple[int, int]:
        """Bytes in use, the unsplit rest of blocks included; and bytes that lie free beside them, in segments that cannot be
        given back to CUDA (`torch.cuda.empty_cache`)."""
        used = free = 0
        for first in self._segments:
            blocks = [first]
            while blocks[-1].after:
                blocks.append(blocks[-1].after)
            in_use = sum(block.size for block in blocks if not block.free)
            used += in_use
            free += sum(block.size for block in blocks if block.free) if in_use else 0
        return used, free

    def _fitting(self, size: int, small: bool) -> Block | None:
        blocks = self._free[small]
        place = bisect.bisect_left(blocks, (size, -1))
        if place == len(blocks):
            return None
        block = blocks[place][2]
        if size < self._max_split_size <= block.size:
            return None
        if size >= self._max_split_size and block.size >= size + _UNSPLIT_OVER:
            return None
        self._take(block)
        return block

    def _segment(self, size: int, small: bool) -> Block:
        if small:
            total = _SMALL_SEGMENT
        elif size < _MEDIUM:
            total = _MEDIUM_SEGMENT
        else:
            total = -(-size // _ROUNDED) * _ROUNDED
        block = Block(self._end, total, small)
        self._end += total
        self._segments.append(block)
        return block

    def _put(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, block.address, block))

    def _take(self, block: Block) -> None:
        blocks = self._free[block.small]
        del blocks[bisect.bisect_left(blocks, (block.size, block.address))]
