"""Requests to ASGI applications without a server, and one that notes what reaches it."""

import asyncio
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHAT = "/v1/chat/completions"


class Recorder:
    """The application below a layer: notes what reaches it and answers 200 with what it has read."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            body = await Request(scope, receive).body()
            self.bodies.append(body)
            await Response(body)(scope, receive, send)


async def sent(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        return await http.request(method, path, **options)


def request(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    return asyncio.run(sent(app, method, path, **options))


def by_hand(app: ASGIApp, scope: dict[str, Any], *messages: Message) -> tuple[list[Message], int]:
    """What the application sends, and how many of the messages it has asked for."""
    given = list(messages)
    answers: list[Message] = []

    async def receive() -> Message:
        return given.pop(0)

    async def send(message: Message) -> None:
        answers.append(message)

    asyncio.run(app({"type": "http", "method": "POST", "path": CHAT, "headers": []} | scope, receive, send))  # type: ignore[arg-type]
    return answers, len(messages) - len(given)


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)
