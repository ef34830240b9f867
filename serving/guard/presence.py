"""How many requests are being served, and since when there have been none: this is what idle time means. Probes, scrapes and
lists do not count, and requests refused for their key or route never come here."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.routes import ANSWERS


class Presence:
    """A layer; `here` counts requests for answers from before their body is read to the last byte of the answer. Each change
    is told to `changed`."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.here = 0
        self.since = time.monotonic()
        self._changed = changed

    def idle_s(self) -> float:
        """Seconds since the end of the last request; 0 while there is one."""
        return 0.0 if self.here else time.monotonic() - self.since

    def begin(self) -> None:
        """Idle time is counted from now."""
        self.since = time.monotonic()
        self._changed()

    def layer(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] not in ANSWERS:
                await app(scope, receive, send)
                return
            self.here += 1
            self._changed()
            try:
                await app(scope, receive, send)
            finally:
                self.here -= 1
                self.since = time.monotonic()
                self._changed()

        return counted
