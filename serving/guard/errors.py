"""Turns vLLM's errors into OpenAI's shape, and keeps internals out of them.

vLLM's own errors name the engine's classes, and answer 500 for an engine that is being restarted and 501 for a data URL that
it cannot read; FastAPI's have a `detail` instead of an `error`. What vLLM only finds wrong with a streamed request once the
engine takes it would be the first event of a 200: here it is an answer with its status, as without `stream`.
"""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.respond import refuse
from serving.ipc.status import retry_after

logger = logging.getLogger("vllm.onecard")

# By status: OpenAI's `type`. Others are the client's fault below 500 and the server's above.
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# By vLLM's `param`: the code that programs look for.
_CODES = {"input_tokens": "context_length_exceeded", "image_url": "invalid_image"}
_LARGEST = 64 * 1024
_FAILED_EVENT = b'data: {"error"'
# A complaint of pydantic's, as vLLM's handler writes it and as pydantic itself does.
_COMPLAINTS = (
    re.compile(r"'loc': '([^']*)', 'msg': (?:'([^']*)'|\"([^\"]*)\")"),
    re.compile(r"^(\S+)\n  (.+?) \[type=()", re.MULTILINE),
)
_MOST_COMPLAINTS = 3
_ONE_VALUE = re.compile(r": Input should be '[^']*'$")
_PARAMETER = re.compile(r" \(parameter=.*\)$", re.DOTALL)


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
        start: Message | None = None
        started = failed = False
        held = bytearray()

        async def answering(message: Message) -> None:
            nonlocal status, start, started, failed
            if message["type"] == "http.response.start":  # waits for the first of the body
                status, start = message["status"], message
                return
            body = message.get("body", b"")
            if not started and body.startswith(_FAILED_EVENT):
                failed = True
                held.extend(body.removeprefix(b"data: ").partition(b"\n\n")[0])
                status = _status_of(_read(bytes(held)))
            if status < 400:
                if start and not started:
                    started = True
                    await send(start)
                await send(message)
                return
            if len(held) < _LARGEST and not failed:
                held.extend(body)
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
        code, param = error.get("code"), error.get("param")
        return refuse(
            status,
            _in_words(str(error.get("message") or "The request cannot be served.")),
            _KINDS.get(status, "invalid_request_error"),
            param=_place(param) if isinstance(param, str) else None,
            code=code if isinstance(code, str) else _CODES.get(str(param)),
        )


def _in_words(message: str) -> str:
    """Without Python's forms: pydantic tells every class of a union that a value might have been, with what it was given."""
    found = [match.groups() for pattern in _COMPLAINTS for match in pattern.finditer(message)]
    said = [*dict.fromkeys(f"`{_place(place)}`: {one or other}" for place, one, other in found)]
    # What only tells one class of the union from another comes last.
    said.sort(key=lambda each: _ONE_VALUE.search(each) is not None)
    return "; ".join(said[:_MOST_COMPLAINTS]) + "." if said else _PARAMETER.sub("", message)


def _place(loc: str) -> str:
    """`body.messages.0.SomeParam.role` as whoever sent it knows it: messages.0.role."""
    return ".".join(part for part in loc.removeprefix("body.").split(".") if not part[:1].isupper())


def _status_of(error: dict[str, Any]) -> int:
    """vLLM's `code` of an error is its status."""
    code = error.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 500


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
