"""The sizes at which the model saw a request's pictures; coordinates in its answer refer to them.

The guard calls `collect_sizes` before a request is handled; the media connector, in the same context, reports the sizes.
"""

from collections.abc import Iterator
from contextvars import ContextVar

Size = tuple[int, int]


class SeenSizes:
    """Sizes in the order of the request's pictures, whichever thread finishes first."""

    def __init__(self) -> None:
        self._sizes: list[Size | None] = []

    def expect(self) -> int:
        """Reserves the place of the next picture."""
        self._sizes.append(None)
        return len(self._sizes) - 1

    def report(self, place: int, size: Size) -> None:
        self._sizes[place] = size

    def __iter__(self) -> Iterator[Size]:
        return (size for size in self._sizes if size is not None)

    def __str__(self) -> str:
        """`1248x928, 640x480`: width × height, as a header's value."""
        return ", ".join(f"{width}x{height}" for width, height in self)


_SEEN: ContextVar[SeenSizes | None] = ContextVar("onecard_seen_sizes", default=None)


def collect_sizes() -> SeenSizes:
    """Begins to collect the sizes of the pictures handled in this context, and in tasks started from it."""
    seen = SeenSizes()
    _SEEN.set(seen)
    return seen


def seen_sizes() -> SeenSizes:
    """The current context's sizes; a throwaway where nobody collects them."""
    seen = _SEEN.get()
    return SeenSizes() if seen is None else seen
