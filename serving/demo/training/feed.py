"""Processes that draw while the device trains.

Drawing is most of the work, so every core but one draws. A whole pool of conversations is written into a slot of
memory that was shared before the fork; only the shapes of its arrays go through a queue. The memory is an anonymous
mapping, because /dev/shm is often small in containers.
"""

import mmap
import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.demo.training.batches import Arrays

Pool = list[tuple[Arrays, list[str]]]  # micro-batches, each with the kinds of its answers
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies in its slot."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Feed:
    """Call `take` for the next pool; its arrays are valid until the next call. Start it before the device is used."""

    def __init__(self, produce: Callable[[int], Iterator[Pool]], workers: int, slot_bytes: int) -> None:
        """`produce(number)` runs in worker `number` and may end."""
        slots = 2 * workers
        context = multiprocessing.get_context("fork")
        self.memory = mmap.mmap(-1, slots * slot_bytes)
        self.slot_bytes = slot_bytes
        self.free: Any = context.SimpleQueue()
        self.full: Any = context.SimpleQueue()
        self.taken: int | None = None
        for slot in range(slots):
            self.free.put(slot)
        self.workers = [
            context.Process(target=self._work, args=(produce, number), daemon=True) for number in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def ready(self) -> bool:
        """Whether `take` would answer at once."""
        return not self.full.empty()

    def take(self) -> Pool:
        """Waits for a pool. Raises RuntimeError with the traceback of a worker that failed."""
        if self.taken is not None:
            self.free.put(self.taken)
            self.taken = None
        message = self.full.get()
        if isinstance(message, str):
            raise RuntimeError(f"a data process failed:\n{message}")
        self.taken, batches = message
        return [({place.name: self._view(self.taken, place) for place in places}, kinds) for places, kinds in batches]

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.join()

    def _view(self, slot: int, place: _Place) -> Any:
        start = slot * self.slot_bytes + place.offset
        count = int(np.prod(place.shape))
        return np.frombuffer(self.memory, place.dtype, count, start).reshape(place.shape)

    def _work(self, produce: Callable[[int], Iterator[Pool]], number: int) -> None:
        try:
            for pool in produce(number):
                slot = self.free.get()
                self.full.put((slot, self._write(slot, pool)))
        except KeyboardInterrupt:
            return
        except Exception:
            self.full.put(traceback.format_exc())

    def _write(self, slot: int, pool: Pool) -> list[tuple[list[_Place], list[str]]]:
        offset = 0
        batches = []
        for arrays, kinds in pool:
            places = []
            for name, array in arrays.items():
                place = _Place(name, array.dtype.str, array.shape, offset)
                offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
                if offset > self.slot_bytes:
                    raise ValueError(f"a pool needs more than the {self.slot_bytes:,} bytes of a slot")
                self._view(slot, place)[...] = array
                places.append(place)
            batches.append((places, kinds))
        return batches
