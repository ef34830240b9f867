"""Requests to vLLM's own application from inside its process: no socket, no second way to an answer."""

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send


def client(app: ASGIApp, outer: Scope) -> httpx.AsyncClient:
    """A client of `app`. `outer` is the scope that FastAPI handed down: its handlers look for themselves in it."""

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "app": outer["app"]}, receive, send)

    # An answer takes as long as it takes; who asked decides when to leave.
    return httpx.AsyncClient(transport=httpx.ASGITransport(within), base_url="http://onecard", timeout=None)  # noqa: S113
