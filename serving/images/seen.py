"""The sizes at which the model saw a request's pictures: coordinates in its answer refer to them.

Whoever takes a request in calls `collect_sizes` before it is handled; the media connector, which runs in the same
context, reports into it.
"""

from collections.abc import Iterator
from contextvars import ContextVar

Size = tuple[int, int]


class SeenSizes:
    """Sizes in the order of the request's pictures, however the threads finish."""

    def __init__(self) -> None:
        self._sizes: list[Size | None] = []

    def expect(self) -> int:
        """A place for the next picture."""
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
    """Where the sizes of this context's pictures will be; what it starts shares it."""
    seen = SeenSizes()
    _SEEN.set(seen)
    return seen


def seen_sizes() -> SeenSizes:
    """The current context's; one that nobody reads where nobody asked."""
    seen = _SEEN.get()
    return SeenSizes() if seen is None else seen
