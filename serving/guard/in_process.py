"""Requests to vLLM's own application from inside its process: no socket, no second way to an answer."""

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.facts import SCOPE_KEY


def client(app: ASGIApp, outer: Scope) -> httpx.AsyncClient:
    """A client of `app`. Of `outer`, the scope that came down to the caller, it hands on the application, in which
    FastAPI's handlers look for themselves, and what the layers above know of the request."""
    handed_on = {name: outer[name] for name in ("app", SCOPE_KEY) if name in outer}

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, **handed_on}, receive, send)

    # An answer takes as long as it takes; who asked decides when to leave.
    return httpx.AsyncClient(transport=httpx.ASGITransport(within), base_url="http://localhost", timeout=None)  # noqa: S113
