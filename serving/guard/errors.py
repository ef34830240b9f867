"""Turns vLLM's errors into OpenAI's shape, and keeps internals out of them.

vLLM's own errors name the engine's classes, and answer 500 for an engine that is being restarted and 501 for a data URL that
it cannot read; FastAPI's have a `detail` instead of an `error`.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.respond import refuse
from serving.ipc.status import retry_after

logger = logging.getLogger("vllm.onecard")

# By status: OpenAI's `type`. Others are the client's fault below 500 and the server's above.
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_LARGEST = 64 * 1024


class Errors:
    """`engine_is_dead` tells a restart, after which (in `restart_s` seconds) it is worth asking again, from a defect, where it
    is not."""

    def __init__(self, app: ASGIApp, engine_is_dead: Callable[[Scope], bool], restart_s: Callable[[], float]) -> None:
        self.app = app
        self._engine_is_dead = engine_is_dead
        self._restart_s = restart_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 200
        started = False
        held = bytearray()

        async def answering(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status = message["status"]
            if status < 400:
                started = True
                await send(message)
            elif message["type"] == "http.response.start":
                return
            else:
                if len(held) < _LARGEST:
                    held.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await self._rewritten(status, bytes(held), scope)(scope, receive, send)

        try:
            await self.app(scope, receive, answering)
        except Exception:  # whatever it is, the client gets an answer and the log the traceback
            logger.exception("vLLM raised at %s", scope["path"])
            if started:
                raise
            await self._rewritten(500, b"", scope)(scope, receive, send)

    def _rewritten(self, status: int, body: bytes, scope: Scope) -> ASGIApp:
        if status >= 500 and self._engine_is_dead(scope):
            headers = {"Retry-After": str(retry_after(self._restart_s()))}
            message = "The engine has died and is being started again. Ask again, or watch /ready."
            return refuse(503, message, "server_error", code="not_ready", headers=headers)
        error = _read(body)
        if status == 501:  # "not implemented" is what vLLM says to media that it cannot read
            status = 400
        if status == 503:
            headers = {"Retry-After": "5"}
            message = "The server has more to do than it can. Ask again."
            return refuse(503, message, "server_error", code="overloaded", headers=headers)
        if status >= 500:
            logger.error("vLLM answered %d: %s", status, error.get("message"))
            return refuse(
                status, "The server failed at this request; its log says why.", "server_error", code="internal"
            )
        code = error.get("code")
        return refuse(
            status,
            str(error.get("message") or "The request cannot be served."),
            _KINDS.get(status, "invalid_request_error"),
            param=error.get("param"),
            code=code if isinstance(code, str) else None,
        )


def _read(body: bytes) -> dict[str, Any]:
    """The error in vLLM's shape, in FastAPI's, or as plain text."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {"message": body.decode("utf-8", "replace")[:500]}
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error", answer)
    if isinstance(error, dict):
        return error if "message" in error else {"message": error.get("detail")}
    return {"message": error}
