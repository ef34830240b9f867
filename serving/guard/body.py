"""Request bodies: read completely, counted as they arrive, refused with 413 as soon as they are too large and with 408 if they
are too slow."""

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.respond import refuse

# As many bodies of the largest size may be held at once.
_HELD_BODIES = 8
# A slower client is holding a place rather than sending a request.
_SLOWEST_BYTES_PER_S = 64 * 1024


class ClientLeftError(Exception):
    """The client closed the connection: there is nobody to answer."""


class _TooLargeError(Exception):
    pass


class Body:
    """Leaves the body as one message for the layers inside; a chunked body without a length is counted all the same."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float = 20.0) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            if declared_length(scope) > self._max_bytes:
                raise _TooLargeError
            body = await self._read(receive)
        except _TooLargeError:
            message = f"The request is larger than {self._max_bytes // 2**20} MiB, which is this profile's limit."
            await refuse(413, message, param="body", code="request_too_large")(scope, receive, send)
        except TimeoutError:
            message = "The request's body arrived too slowly. Send smaller pictures, or over a faster connection."
            await refuse(408, message, param="body", code="request_timeout")(scope, receive, send)
        except ClientLeftError:
            return
        else:
            await self.app(scope, replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            async with asyncio.timeout_at(began + self._timeout_s + size / _SLOWEST_BYTES_PER_S):
                message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                raise _TooLargeError
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)


class HeldBodies:
    """Limits the memory of the bodies that are held at once; one is always allowed."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._bytes = 0

    def size(self, scope: Scope) -> int:
        """The most memory that a request's body may take: the length that it declares, else the most that is read of one."""
        return min(declared_length(scope) or self._max_body_bytes, self._max_body_bytes)

    def fits(self, size: int) -> bool:
        return not self._bytes or self._bytes + size <= _HELD_BODIES * self._max_body_bytes

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size


def declared_length(scope: Scope) -> int:
    """Content-Length in bytes; 0 where there is none."""
    declared = dict(scope["headers"]).get(b"content-length", b"")
    return int(declared) if declared.isdigit() else 0


async def whole_body(receive: Receive) -> bytes:
    """The body, which `Body` left as one message; in a request from inside this process an empty one follows it."""
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what the connection really says (that the client has left)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
