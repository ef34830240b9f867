"""A server whose model says what a test tells it to: for answers that a real one, held to a schema, cannot be made to give."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.listening import listening

_MODELS = {"object": "list", "data": [{"id": "stand-in", "object": "model", "created": 0, "owned_by": "me"}]}


@dataclass
class Said:
    """`answers` are given in turn, the last one again and again; (answer, "length") is one that was cut off. `status` is
    what `/onecard/status` tells; without it, it is not there."""

    answers: list[str | tuple[str, str]]
    status: dict[str, Any] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    @property
    def last_words(self) -> str:
        """The last message of the last request, which is text."""
        return str(self.requests[-1]["messages"][-1]["content"])

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", lambda _: JSONResponse(_MODELS)),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        if self.status is not None:
            routes.append(Route("/onecard/status", lambda _: JSONResponse(self.status)))
        return Starlette(routes=routes)

    async def _chat(self, request: Request) -> JSONResponse:
        self.requests.append(await request.json())
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        text, reason = said if isinstance(said, tuple) else (said, "stop")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        usage = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}
        known = {"id": "1", "object": "chat.completion", "created": 0, "model": "stand-in"}
        return JSONResponse({**known, "choices": [choice], "usage": usage})


@contextmanager
def model_that_says(*answers: str | tuple[str, str], status: dict[str, Any] | None = None) -> Iterator[Said]:
    said = Said(list(answers), status)
    with listening(said.app()) as port:
        said.url = f"http://127.0.0.1:{port}"
        yield said
