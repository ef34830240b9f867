"""A request that was in the engine when it died is run alone the next time, and refused when it has killed it alone.

`Quarantine` stands above `Validation`, where the body is still the client's; `Witness` before the engine, where what has
a turn and what only waits are told apart.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.body import replay, whole_body
from serving.guard.facts import facts
from serving.guard.respond import refuse
from serving.guard.routes import ANSWERS
from serving.guard.suspects import Suspects

# A larger body is digested beside the event loop (about a millisecond a MiB).
_LARGE_BYTES = 2**20


class Quarantine:
    """Refuses what is convicted, and has what is suspected wait until it is alone."""

    def __init__(self, app: ASGIApp, suspects: Suspects) -> None:
        self.app = app
        self._suspects = suspects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ANSWERS:
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        fact = facts(scope)
        fact.digest = await asyncio.to_thread(_digest, body) if len(body) > _LARGE_BYTES else _digest(body)
        if self._suspects.convicted(fact.digest):
            message = (
                "The server has crashed again and again while it worked on exactly this request, the last time on it "
                "alone; for an hour it is not tried again. Change the request; the server's log says how it ended."
            )
            await refuse(422, message, code="quarantined")(scope, receive, send)
            return
        fact.alone = self._suspects.suspected(fact.digest)
        await self.app(scope, replay(body, receive), send)


class Witness:
    """Notes what goes into the engine and what comes out of it. Nothing has come out of one that has died, whatever the
    answer says."""

    def __init__(self, app: ASGIApp, suspects: Suspects, engine_is_dead: Callable[[Scope], bool]) -> None:
        self.app = app
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

        place = self._suspects.enter(digest)
        try:
            await self.app(scope, receive, answering)
        finally:
            if not self._engine_is_dead(scope):
                self._suspects.leave(place)
                if answered:
                    self._suspects.acquit(digest)


def _digest(body: bytes) -> bytes:
    from blake3 import blake3  # comes with vLLM; several times faster than SHA-256, which took most of the guard's time

    return blake3(body).digest()
