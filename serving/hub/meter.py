"""How far a download is: bytes, rate and time left, in one line that is rewritten on a terminal and rare in a log."""

import sys
import time
from collections import deque

_WINDOW_S = 10.0
_TERMINAL_S = 0.5
_LOG_S = 10.0


class Meter:
    """Counts the bytes of one download and prints to stderr. The rate is that of the last ten seconds."""

    def __init__(self, title: str, total: int, have: int) -> None:
        self._title = title
        self._total = total
        self._have = have
        self._began = self._printed = time.monotonic()
        self._received = 0
        self._recent: deque[tuple[float, int]] = deque([(self._began, have)])
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> "Meter":
        already = f", {gigabytes(self._have)} of them here" if self._have else ""
        sys.stderr.write(f"{self._title}: {gigabytes(self._total)}{already}.\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")
        if kind is None:
            seconds = time.monotonic() - self._began
            sys.stderr.write(f"{gigabytes(self._received)} received in {duration(seconds)}; every checksum is right.\n")

    def add(self, size: int) -> None:
        """So many bytes more; fewer than none where some are thrown away."""
        self._have += size
        self._received += max(0, size)
        now = time.monotonic()
        if now - self._printed >= (_TERMINAL_S if self._terminal else _LOG_S):
            self._printed = now
            sys.stderr.write(f"\r\x1b[2K{self._line(now)}" if self._terminal else f"{self._line(now)}\n")
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        self._recent.append((now, self._have))
        while now - self._recent[0][0] > _WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        then, had = self._recent[0]
        rate = (self._have - had) / max(now - then, 1e-3)
        left = f", {duration((self._total - self._have) / rate)} left" if rate > 0 else ""
        share = 100 * self._have // max(1, self._total)
        return f"{gigabytes(self._have)} of {gigabytes(self._total)} ({share}%), {rate / 1e6:.1f} MB/s{left}"


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
