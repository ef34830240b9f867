"""Readings taken beside the scrapes: a scrape never waits for a driver that hangs or a server that is slow."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")
_logger = logging.getLogger(__name__)


class Sampled(Generic[_Value]):
    """Calls `read` every `interval_s` in a thread that ends with the process, and keeps the last value."""

    def __init__(self, name: str, read: Callable[[], _Value], interval_s: float, max_age_s: float = 10.0) -> None:
        self._read = read
        self._interval_s = interval_s
        self._max_age_s = max_age_s
        self._latest: tuple[_Value, float] | None = None
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, wait_s: float = 3.0) -> None:
        """Begins, and waits that long at most for the first reading."""
        self._thread.start()
        self._first.wait(wait_s)

    @property
    def last(self) -> _Value | None:
        """The last reading, however old; None before the first."""
        return self._latest[0] if self._latest else None

    @property
    def fresh(self) -> bool:
        """Whether the last reading is of now: where it is not, reading has hung or fails."""
        return self._latest is not None and time.monotonic() - self._latest[1] < self._max_age_s

    def _run(self) -> None:
        failed: type[Exception] | None = None
        while True:
            try:
                self._latest = (self._read(), time.monotonic())
                failed = None
            except Exception as error:  # the exporter is there for the day on which something else fails; it goes on
                if failed is not type(error):  # told once: a log that grows each second fills the disk
                    _logger.exception("%s cannot be read", self._thread.name)
                failed = type(error)
            self._first.set()
            time.sleep(self._interval_s)
