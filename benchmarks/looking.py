"""Something looked at again and again, by a thread, while something else runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def looking(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Calls `look` every so many seconds while the context lasts, and once more at its end."""
    ended = threading.Event()

    def again() -> None:
        last = False
        while not last:
            last = ended.wait(every_s)
            look()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
