"""The server's log: a file of bounded size, and the lines of it that explain why a server ended."""

import contextlib
import re
from collections import deque
from pathlib import Path
from typing import IO

_LARGEST_BYTES = 20 * 2**20
# The last line of a traceback, at the line's start or behind vLLM's prefix. The first one in a start is the root cause: those
# that follow are other processes saying that one has failed.
_ERROR = re.compile(r"(?:^|\] )((?:\w+\.)*\w*(?:Error|Exception): .+)")


class ServerLog:
    """Writes `file`; when it is full, it becomes `file.1` and a new one begins. A full disk never stops the server."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._last: deque[str] = deque(maxlen=30)
        self._stream: IO[str] | None = None
        self.cause: str | None = None

    def write(self, line: str) -> None:
        self._last.append(line.rstrip()[:500])
        if self.cause is None and (found := _ERROR.search(line)):
            self.cause = found[1][:1000]
        with contextlib.suppress(OSError):
            if self._stream is None:
                self._stream = self.file.open("a", encoding="utf-8")
            self._stream.write(line)
            self._stream.flush()
            if self._stream.tell() > _LARGEST_BYTES:
                self.close()
                self.file.replace(self.file.with_suffix(".log.1"))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._stream:
                self._stream.close()
        self._stream = None

    def begin(self) -> None:
        """A new start begins: forgets what an earlier one died of. The file is there before the first line, for whoever follows
        it, and again where somebody has removed it with its folder."""
        self.cause = None
        self._last.clear()
        self.close()
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.file.touch()

    def explain(self) -> str:
        """Why the server ended, as far as its log tells: the root error, else the last lines."""
        if self.cause:
            return f"{self.cause}\nThe whole log: {self.file}"
        last = "\n".join(f"    {line}" for line in list(self._last)[-8:])
        return f"its log names no error; the last lines of {self.file}:\n{last}"
