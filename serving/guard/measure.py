"""Requests measured from outside, as the client sees them: the outermost layer, so that refusals count too.

Owns the request's id (`X-Request-Id`, taken or made, handed to vLLM and returned), its times and its one line in the log.
Changes nothing else of an answer, and keeps none of it.
"""

import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import metrics
from serving.guard.engine import used_tokens
from serving.guard.facts import facts
from serving.guard.routes import ROUTES, route_of
from serving.metrics import request_log
from serving.metrics.recorder import Outcome
from serving.metrics.request import RequestNotes, attach

PROBES = frozenset({"/health", "/ready", "/metrics", "/onecard/status"})
_ROUTES = frozenset(ROUTES) | PROBES
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CODE = re.compile(rb'"code":\s*"([a-z0-9_]{1,40})"')
# What stands at the end of a JSON answer, and holds why it ended.
_TAIL = 4096


class Measure:
    """Everything but HTTP passes straight through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        answers = exchange.route not in PROBES and scope["method"] == "POST"
        if answers:
            metrics.record_in_flight(1)
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        finally:
            if answers:
                metrics.record_in_flight(-1)
            exchange.end()


class _Exchange:
    """One request and its answer as they pass. Times are by the monotonic clock."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._began = time.perf_counter()
        self._received = self._began
        self._first_byte: float | None = None
        self._answered_after = 0.0
        self._done = self._left = self._streams = False
        self._status = 0
        self._code: str | None = None
        self._receive, self._send = receive, send
        self._method: str = scope["method"]
        route = route_of(scope["path"])
        self.route: str = route if route in _ROUTES else "other"
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        made = _ID.fullmatch(given) is None
        self._id = secrets.token_hex(8).encode() if made else given
        self._notes = RequestNotes(self._id.decode())
        if made:  # vLLM builds the answer's `id`, and its own log lines, on this header
            others = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
            scope = {**scope, "headers": [*others, (b"x-request-id", self._id)]}
        # `state` is uvicorn's: vLLM notes there what a request took.
        self.scope = attach({"state": {}, **scope}, self._notes)
        facts(self.scope)  # made here, so that what the layers below note in it is seen here

    async def receive(self) -> Message:
        message = await self._receive()
        self._received = time.perf_counter()
        if message["type"] == "http.disconnect" and not self._done:
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = self._start(message)
        elif message["type"] == "http.response.body":
            self._body(message)
        await self._send(message)

    def _start(self, message: Message) -> Message:
        self._status = message["status"]
        self._answered_after = time.perf_counter() - self._received
        headers = dict(message["headers"])
        self._streams = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if (wait := headers.get(b"retry-after", b"")).isdigit():
            metrics.record_retry_after(int(wait))
        # Headers may repeat (set-cookie): only ours is replaced.
        kept = [(name, value) for name, value in message["headers"] if name != b"x-request-id"]
        return {**message, "headers": [*kept, (b"x-request-id", self._id)]}

    def _body(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if self._status >= 400:
            if self._code is None and (code := _CODE.search(body[:_TAIL])):
                self._code = code[1].decode()
        elif body:
            if self._first_byte is None:
                self._first_byte = time.perf_counter()
                if self._streams:
                    metrics.record_first_token(self.route, self._first_byte - self._began)
            self._notes.see(body if self._streams else body[-_TAIL:])
        self._done = not message.get("more_body", False)

    def end(self) -> None:
        """Records the outcome, unless another process answers the request."""
        if facts(self.scope).given_away:
            return
        now = time.perf_counter()
        outcome = self._outcome()
        reason = self._reason(outcome)
        notes = self._notes
        notes.key = facts(self.scope).key or notes.key
        metrics.record_request(self.route, notes.key, outcome, reason, now - self._began)
        if outcome == "refused":
            metrics.record_refusal(reason, self._answered_after)
        if outcome == "answered" and notes.finish is not None:
            metrics.record_finish(notes.finish)
        if used := used_tokens(self.scope):
            notes.prompt_tokens, notes.answer_tokens = used
            streamed = now - self._first_byte if self._streams and self._first_byte else None
            metrics.record_tokens(notes.key, *used, streamed)
        if self.route not in PROBES or outcome == "failed":
            request_log.write(
                request_log.Line(
                    method=self._method,
                    route=self.route,
                    status=self._status,
                    outcome=outcome,
                    reason=reason,
                    seconds=now - self._began,
                    first_byte_s=None if self._first_byte is None else self._first_byte - self._began,
                    notes=notes,
                )
            )

    def _reason(self, outcome: Outcome) -> str:
        if outcome in ("answered", "left"):
            return "none"
        return self._code or (f"http_{self._status}" if self._status >= 400 else "broken_off")

    def _outcome(self) -> Outcome:
        if self._done:
            refused = 400 <= self._status < 500 or self._status == 503
            return "refused" if refused else "failed" if self._status >= 500 else "answered"
        # An answer without an end was broken off, by the client or by us.
        return "left" if self._left else "failed"
