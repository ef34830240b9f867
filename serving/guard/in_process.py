"""Requests to vLLM's own application from inside its process: no socket, no second way to an answer."""

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard import facts
from serving.guard.body import ClientLeftError, replay, whole_body
from serving.metrics import request as notes


def client(app: ASGIApp, outer: Scope, leaving: Receive | None = None) -> httpx.AsyncClient:
    """A client of `app`. Of `outer`, the scope that came down to the caller, it hands on the application, in which
    FastAPI's handlers look for themselves, and what the layers above know of the request and are told of it.

    `leaving` is the caller's own `receive`, where somebody asks through it: the application hears there, as of every
    request, that its client has left, and ends what it does. What was asked then raises ClientLeftError.
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
