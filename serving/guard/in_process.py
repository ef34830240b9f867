"""Requests to vLLM's application from inside its own process: without a socket, and by the same way as everyone's."""

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard import facts
from serving.guard.body import ClientLeftError, replay, whole_body
from serving.metrics import request as notes


def client(app: ASGIApp, outer: Scope, leaving: Receive | None = None) -> httpx.AsyncClient:
    """A client of `app`. It passes on, from the caller's scope `outer`, the application (FastAPI's handlers need it) and what
    the guard's layers know about the request.

    `leaving` is the caller's `receive`, if a client is behind it: when that client leaves, the application is told, as it
    would be for any request, and stops; the call then raises ClientLeftError.
    """
    # The state of the lifespan is every request's: nothing may be noted there of one.
    names = ("app", "state", facts.SCOPE_KEY, notes.SCOPE_KEY) if outer["type"] == "http" else ("app",)
    handed_on = {name: outer[name] for name in names if name in outer}

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        left = False

        async def listening() -> Message:
            nonlocal left
            message = await (leaving or receive)()
            left = message["type"] == "http.disconnect" and leaving is not None
            return message

        await app({**scope, **handed_on}, replay(await whole_body(receive), listening), send)
        if left:
            raise ClientLeftError

    # An answer takes as long as it takes; who asked decides when to leave.
    return httpx.AsyncClient(transport=httpx.ASGITransport(within), base_url="http://localhost", timeout=None)  # noqa: S113
