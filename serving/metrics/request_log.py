"""One line a request in the server's log: JSON for machines or words for people (`ONECARD_LOG_FORMAT=json|text`).

Never a picture, a question, an answer or a key: the line is made of times, counts and names alone.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from serving.metrics.request import RequestNotes

_logger = logging.getLogger("onecard.requests")


@dataclass(frozen=True)
class Line:
    """What a request came to. `first_byte_s` is None where nothing was answered."""

    method: str
    route: str
    status: int
    outcome: str
    reason: str
    seconds: float
    first_byte_s: float | None
    notes: RequestNotes

    def as_json(self) -> str:
        """One JSON object; what is not known is left out."""
        notes = self.notes
        fields = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": "request",
            "request_id": notes.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome,
            "reason": self.reason,
            "key": notes.key,
            "seconds": round(self.seconds, 4),
            "first_byte_s": None if self.first_byte_s is None else round(self.first_byte_s, 4),
            "images": notes.images or None,
            "prompt_tokens": notes.prompt_tokens,
            "answer_tokens": notes.answer_tokens,
            "finish": notes.finish,
        }
        return json.dumps({name: value for name, value in fields.items() if value is not None})

    def as_text(self) -> str:
        """`14:03:07 POST /v1/chat/completions 200 in 0.412 s (first byte 0.051 s), 800 + 64 tokens, stop  id=…`."""
        notes = self.notes
        parts = [f"{self.method} {self.route} {self.status} in {self.seconds:.3f} s"]
        if self.first_byte_s is not None and self.seconds - self.first_byte_s > 0.001:
            parts[0] += f" (first byte {self.first_byte_s:.3f} s)"
        if self.outcome != "answered":
            parts.append(f"{self.outcome}: {self.reason}" if self.reason != "none" else self.outcome)
        if notes.images:
            parts.append(f"{notes.images} pictures" if notes.images > 1 else "1 picture")
        if notes.answer_tokens is not None:
            parts.append(
                f"{notes.prompt_tokens} + {notes.answer_tokens} tokens" + (f", {notes.finish}" if notes.finish else "")
            )
        key = "" if notes.key == "none" else f" key={notes.key}"
        return f"{datetime.now():%H:%M:%S} {', '.join(parts)}  id={notes.request_id}{key}"


def write(line: Line) -> None:
    """Writes it to stderr, which the supervisor keeps as `server.log`."""
    if not _logger.handlers:
        _set_up()
    _logger.info("%s", line.as_json() if _wants_json() else line.as_text())


def _wants_json() -> bool:
    return os.environ.get("ONECARD_LOG_FORMAT", "text") == "json"


def _set_up() -> None:
    """A handler of its own: vLLM's would put its prefix before the JSON."""
    _logger.addHandler(_Lines())
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


class _Lines(logging.Handler):
    """What is said in one turn of the event loop is written at its end, at once: of a burst of a thousand refusals each
    would else wake the supervisor, on whose pipe they go out, and wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not self._lines:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # at the very end, when there is no loop any more
                sys.stderr.write(record.getMessage() + "\n")
                return
        self._lines.append(record.getMessage())

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            with contextlib.suppress(OSError):  # a log that cannot be written stops nothing
                sys.stderr.write("\n".join(lines) + "\n")
                sys.stderr.flush()
