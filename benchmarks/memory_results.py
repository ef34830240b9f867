"""A file of measured points, such as `results/memory-*.json` and `results/survival-*.json`: written anew after each point, so
that a run that was broken off goes on where it was.
"""

import datetime
import json
import shlex
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# What a point says of where it ran; it stands once, at the top.
_ABOUT = ("vllm", "torch", "gpu")


def is_measured(point: dict[str, Any]) -> bool:
    """Whether it lived, and says of the encoder all that is scored."""
    return "loaded" in point and "encoder_tokens" in point["transients"]


class Results:
    """The points of one file; several threads may add to it. A point that is not `done` is to be measured again."""

    def __init__(self, file: Path, command: str, done: Callable[[dict[str, Any]], bool]) -> None:
        self._file = file
        self._done = done
        self._lock = threading.Lock()
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self._points: dict[str, dict[str, Any]] = {point["name"]: point for point in kept.get("points", ())}
        self._about = {name: kept[name] for name in _ABOUT if name in kept} | {"command": command}

    @staticmethod
    def command(module: str, words: Sequence[str]) -> str:
        """As it stands in the file: `python -m MODULE WORDS`, without the folders of the machine that it ran on."""
        return shlex.join(
            ["python", "-m", module, *(Path(word).name if Path(word).is_absolute() else word for word in words)]
        )

    def has(self, name: str) -> bool:
        """Whether that point needs no measuring any more."""
        return name in self._points and self._done(self._points[name])

    def add(self, point: dict[str, Any]) -> None:
        """Adds a point, or puts it in the place of an older one."""
        with self._lock:
            self._about |= {name: point.pop(name) for name in _ABOUT if name in point}
            self._points[point["name"]] = point
            written = {"date": datetime.date.today().isoformat()} | self._about | {"points": [*self._points.values()]}
            beside = self._file.with_suffix(".new")
            beside.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
            beside.replace(self._file)
