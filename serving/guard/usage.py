"""What each key has used in this minute and this day (UTC), kept on disk so that a restart forgives nothing.

Pure but for `load` and `save`; the time is an argument, in seconds since the epoch.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.state_dir import read_json, write_json

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
    """Counts by key and quota (`requests/minute`, `tokens/day`, …), each in the window that it belongs to."""

    file: Path | None = None
    _counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _dirty: bool = False

    def add(self, key: str, now: float, *, requests: int = 0, tokens: int = 0) -> None:
        for what, count in (("requests", requests), ("tokens", tokens)):
            for window in _SECONDS if count else ():
                used = self._window(key, f"{what}/{window}", now)
                used[1] += count
                self._dirty = True

    def standings(self, key: str, quotas: dict[str, int], now: float) -> list[Standing]:
        """How the key stands with each of its quotas."""
        standings = []
        for quota, limit in quotas.items():
            seconds = _SECONDS[quota.partition("/")[2]]
            used = self._window(key, quota, now)[1]
            standings.append(Standing(quota, limit, max(0, limit - used), seconds - int(now) % seconds))
        return standings

    def load(self) -> None:
        """Reads what an earlier process has kept; what is not in its form is left out."""
        kept = read_json(self.file) if self.file else None
        for key, counts in kept.items() if isinstance(kept, dict) else ():
            if isinstance(counts, dict):
                self._counts[key] = {quota: pair for quota, pair in counts.items() if _is_pair(pair)}

    def save(self) -> None:
        """Writes what has changed. A full disk costs the memory of it over a restart, and nothing else."""
        if self.file and self._dirty:
            with contextlib.suppress(OSError):
                write_json(self.file, self._counts)
                self._dirty = False

    def _window(self, key: str, quota: str, now: float) -> list[int]:
        """[number of the window, count in it]; begun anew when the time has moved on."""
        number = int(now) // _SECONDS[quota.partition("/")[2]]
        counts = self._counts.setdefault(key, {})
        if counts.get(quota, [None])[0] != number:
            counts[quota] = [number, 0]
        return counts[quota]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) for each in value)
