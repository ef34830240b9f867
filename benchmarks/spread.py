"""Pieces of work spread over places that do them side by side, such as GPUs."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

Place = TypeVar("Place")
Piece = TypeVar("Piece")


def spread(
    work: Iterable[Piece], places: Sequence[Place], do: Callable[[Place, Piece], None], stopping: threading.Event
) -> None:
    """Calls `do` once for each piece, in order, with whichever place is free; a place that is named twice does two at a time.

    `stopping` is set when one of them raises, and on Ctrl-C and SIGTERM: nothing more is begun, and who does something long
    watches it. What was raised first is raised again once all have ended."""
    left: SimpleQueue[Piece] = SimpleQueue()
    for piece in work:
        left.put(piece)

    def work_at(place: Place) -> None:
        while not stopping.is_set():
            try:
                piece = left.get_nowait()
            except Empty:
                return
            do(place, piece)

    with ThreadPoolExecutor(len(places)) as threads:
        try:
            for done in [threads.submit(work_at, place) for place in places]:
                done.result()
        except BaseException:
            stopping.set()
            raise
