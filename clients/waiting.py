"""What is waited for, said to a person: a long answer, or a server that starts, wakes or is full."""

import shutil
import sys
import threading
import time
from types import TracebackType

import httpx

from clients.connection import Connection

# What comes sooner needs no word.
_SILENT_S, _EVERY_S = 2.0, 1.0


class Waiting:
    """A line on stderr that is renewed in place and is gone when the wait is over; nothing where stderr is no terminal."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._shown = False
        self._began = time.monotonic()

    def __enter__(self) -> "Waiting":
        if sys.stderr.isatty():
            threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """At the first word of an answer that is printed; a second time it does nothing."""
        with self._writing:
            self._over.set()
            if self._shown:
                self._write("")
                self._shown = False

    def _tell(self) -> None:
        while not self._over.wait(_EVERY_S if self._shown else _SILENT_S):
            doing = self._doing()
            with self._writing:
                if not self._over.is_set():
                    line = f"{doing} ({time.monotonic() - self._began:.0f} s)"
                    self._write(line[: shutil.get_terminal_size().columns - 1])
                    self._shown = True

    def _doing(self) -> str:
        headers = {"Authorization": f"Bearer {self._connection.api_key}"}
        try:
            status = httpx.get(self._connection.status_url, headers=headers, timeout=5, trust_env=False).json()
        except (httpx.HTTPError, ValueError):  # another server than onecard, or none in this moment
            status = None
        if not isinstance(status, dict) or status.get("state") in (None, "ready"):
            return "Waiting for the answer"
        step, left = status.get("step_title"), status.get("seconds_left")
        about = f", about {left:.0f} s left" if left else ""
        return f"The server is {status['state']}" + (f": {step}{about}" if step else "")

    @staticmethod
    def _write(line: str) -> None:
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
