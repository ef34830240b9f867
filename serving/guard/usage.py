"""What each key has used in this minute and this day (UTC), kept on disk so that a restart forgives nothing.

Pure but for `load` and `save`; the time is an argument, in seconds since the epoch.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.machine.state_dir import read_json, write_json

_SECONDS = {"minute": 60, "day": 86_400}


@dataclass(frozen=True)
class Standing:
    """How a key stands with one quota: its limit, what is left of it, and the seconds until it is whole again."""

    quota: str
    limit: int
    left: int
    resets_s: int


@dataclass
class Usage:
    """Counts by key and quota (`requests/minute`, `tokens/day`, …), each in its current window. With `shared`, the servers of
    several cards count together: the file holds the counts, and is read and written each time (0.1 ms)."""

    file: Path | None = None
    shared: bool = False
    _counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _dirty: bool = False

    def add(self, key: str, now: float, *, requests: int = 0, tokens: int = 0) -> None:
        with self._alone():
            for what, count in (("requests", requests), ("tokens", tokens)):
                for window in _SECONDS if count else ():
                    used = self._window(key, f"{what}/{window}", now)
                    used[1] += count
                    self._dirty = True

    def standings(self, key: str, quotas: dict[str, int], now: float) -> list[Standing]:
        """How the key stands with each of its quotas."""
        with self._alone():
            return [self._standing(key, quota, limit, now) for quota, limit in quotas.items()]

    def _standing(self, key: str, quota: str, limit: int, now: float) -> Standing:
        seconds = _SECONDS[quota.partition("/")[2]]
        used = self._window(key, quota, now)[1]
        return Standing(quota, limit, max(0, limit - used), seconds - int(now) % seconds)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes from counting meanwhile; does nothing where there are none."""
        if not (self.shared and self.file):
            yield
            return
        with self.file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.load()
            yield
            self.save()

    def load(self) -> None:
        """Reads what an earlier process has kept, except for what is malformed."""
        kept = read_json(self.file) if self.file else None
        for key, counts in kept.items() if isinstance(kept, dict) else ():
            if isinstance(counts, dict):
                self._counts[key] = {quota: pair for quota, pair in counts.items() if _is_pair(pair)}

    def save(self) -> None:
        """Writes what has changed. With a full disk the counts are lost at a restart, and nothing else is."""
        if self.file and self._dirty:
            with contextlib.suppress(OSError):
                write_json(self.file, self._counts)
                self._dirty = False

    def _window(self, key: str, quota: str, now: float) -> list[int]:
        """[number of the window, count in it]; reset when the window has passed."""
        number = int(now) // _SECONDS[quota.partition("/")[2]]
        counts = self._counts.setdefault(key, {})
        if counts.get(quota, [None])[0] != number:
            counts[quota] = [number, 0]
        return counts[quota]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) for each in value)
