"""Answers that are sent before the request's body has been read: what is still coming is taken in for a moment, so that
the client finds the status and not a broken pipe, and then the connection is closed.

A client on asyncio reads nothing until it has sent everything, and loses the answer when the connection ends before; the
SDK then reports a connection error and tries twice more. So it is the second that bounds what is taken in and thrown
away, and the bytes only stand for a network that is faster than anybody's.
"""

import asyncio
import contextlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_BYTES = 2**28
DRAIN_S = 1.0


class Early:
    """Stands outside every layer that may answer early."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        unread = True

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def answering(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            if unread and message["type"] == "http.response.body" and not message.get("more_body"):
                # The whole answer goes out now; the connection is closed by the empty end of it.
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN_S):
                        await _drain(receive)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self.app(scope, reading, answering)


def _has_body(scope: Scope) -> bool:
    """Whether one is on its way. A client that says `Expect: 100-continue` sends none after a refusal."""
    headers = dict(scope["headers"])
    if headers.get(b"expect", b"").lower() == b"100-continue":
        return False
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def _drain(receive: Receive) -> None:
    size = 0
    while size < DRAIN_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return
