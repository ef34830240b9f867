"""A request that was in an engine when it died runs alone the next time, and is refused once it has killed an engine alone.
With several cards, the last server that is up does not try it: one request may take down one card at a time.

`Quarantine` stands outside `Validation`, where the body is still as the client sent it; `Witness` next to the engine, where
only requests that have their turn arrive.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.body import replay, whole_body
from serving.guard.facts import facts
from serving.guard.in_engine import InEngine
from serving.guard.respond import refuse
from serving.guard.routes import ANSWERS
from serving.guard.suspects import Suspects
from serving.ipc.status import retry_after

# A larger body is digested beside the event loop (about a millisecond a MiB).
_LARGE_BYTES = 2**20


class Quarantine:
    """Refuses convicted requests, and makes suspected ones wait until they can run alone. `spared_s` maps the age of the crash
    to the seconds after which to ask again; None where the request may run here."""

    def __init__(
        self, app: ASGIApp, suspects: Suspects, spared_s: Callable[[float], float | None] = lambda _: None
    ) -> None:
        self.app = app
        self._suspects = suspects
        self._spared_s = spared_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ANSWERS:
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        fact = facts(scope)
        fact.digest = await asyncio.to_thread(_digest, body) if len(body) > _LARGE_BYTES else _digest(body)
        record = self._suspects.record(fact.digest)
        if record and record.convicted:
            message = (
                "The server has crashed again and again while it worked on exactly this request, the last time on it "
                "alone; for an hour it is not tried again. Change the request; the server's log says how it ended."
            )
            await refuse(422, message, code="quarantined")(scope, receive, send)
            return
        seconds = self._spared_s(record.age_s) if record and not self._suspects.was_answered(fact.digest) else None
        if seconds is not None:
            message = (
                "A server of another card has died while it worked on this request, and this one is the last that serves: "
                "it is tried when the other is back. Ask again."
            )
            headers = {"Retry-After": str(retry_after(seconds))}
            await refuse(503, message, "server_error", code="not_ready", headers=headers)(scope, receive, send)
            return
        fact.alone = record is not None
        await self.app(scope, replay(body, receive), send)


class Witness:
    """Notes which requests enter the engine and which come out of it. Nothing comes out of a dead engine, whatever the answer
    says."""

    def __init__(
        self, app: ASGIApp, in_engine: InEngine, suspects: Suspects, engine_is_dead: Callable[[Scope], bool]
    ) -> None:
        self.app = app
        self._in_engine = in_engine
        self._suspects = suspects
        self._engine_is_dead = engine_is_dead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        digest = facts(scope).digest
        if digest is None or self._engine_is_dead(scope):
            await self.app(scope, receive, send)
            return
        answered = False
        status = 0

        async def answering(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                status = message["status"]
            answered = status == 200 and message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        place = self._in_engine.enter(digest)
        try:
            await self.app(scope, receive, answering)
        finally:
            if not self._engine_is_dead(scope):
                self._in_engine.leave(place)
                if answered:
                    self._suspects.answered(digest)


def _digest(body: bytes) -> bytes:
    from blake3 import blake3  # comes with vLLM; several times faster than SHA-256, which took most of the guard's time

    return blake3(body).digest()
