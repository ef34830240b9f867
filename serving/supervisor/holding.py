"""Requests that wait in the supervisor until the model that they need is loaded: asleep, on the way up, or while another
one is served. Bounded in number, in bytes and in time; whoever waits can leave.

A request that may go on is given with its connection to the server (ipc/handover.py), which answers it as if it had come to
it in the first place. Nothing here decides what is loaded: that is swap.py's, and the supervisor's to do.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.body import Body, held_bytes, whole_body
from serving.guard.content import Content
from serving.guard.front import give_request
from serving.guard.gate import overloaded
from serving.guard.json_body import read_object
from serving.guard.refusal import RefusalError
from serving.guard.respond import not_ready
from serving.guard.validation import no_model
from serving.ipc.handover import Channel
from serving.ipc.settings import GuardSettings
from serving.supervisor.hold import Hold, Place
from serving.supervisor.situation import Situation
from serving.supervisor.swap import Choice

# Bodies that are held at the same time, in the largest that one may be.
_HELD_BODIES = 8
_FULL_RETRY_S = 10


class Holding:
    """An ASGI application for requests that need a model. `ways_to` gives the ways to a model's servers that are ready
    now, the best first."""

    def __init__(
        self,
        hold: Hold,
        choice: Choice,
        settings: GuardSettings,
        situation: Situation,
        ways_to: Callable[[str], list[Channel]],
    ) -> None:
        self._hold = hold
        self._choice = choice
        self._deadline_s = settings.wake_deadline_s
        self._situation = situation
        self._ways_to = ways_to
        self._most_bytes = _HELD_BODIES * choice.max_body_bytes
        self._bytes = 0
        read = Body(self._wait, choice.max_body_bytes, settings.body_timeout_s)
        self._app: ASGIApp = Content(self._bounded(read))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _bounded(self, app: ASGIApp) -> ASGIApp:
        async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
            size = held_bytes(scope, self._choice.max_body_bytes)
            if len(self._hold.places) >= self._hold.most or (self._bytes and self._bytes + size > self._most_bytes):
                await overloaded(_FULL_RETRY_S)(scope, receive, send)
                return
            self._bytes += size
            try:
                await app(scope, receive, send)
            finally:
                self._bytes -= size

        return bounded

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole_body(receive)
        try:
            model = self._model(scope, body)
        except RefusalError as refusal:
            await refusal.response()(scope, receive, send)
            return
        ways: list[Channel] | str | None = self._ways_to(model)
        if not ways:
            with self._hold.place(model) as place:
                ways = await self._told(place, receive)
        if ways is None:  # whoever asked has left
            return
        # A server that has died takes nothing, and may not yet be known to be dead.
        if not isinstance(ways, str) and any(give_request(scope, body, way) for way in ways):
            return
        now = self._situation
        why = ways if isinstance(ways, str) else now.doing
        await not_ready(now.state, why, now.seconds_left, close=True)(scope, receive, send)

    async def _told(self, place: Place, receive: Receive) -> list[Channel] | str | None:
        # The body has been read: what comes now is that the client is gone.
        left = asyncio.ensure_future(receive())
        told: set[asyncio.Future[object]] = {place.told, left}  # type: ignore[arg-type]
        await asyncio.wait(told, timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if place.told.done():
            left.cancel()
            way = place.told.result()
            return [way] if isinstance(way, Channel) else way
        if left.done():
            return None
        left.cancel()
        return f"{self._situation.doing}, and the request has waited for {self._deadline_s:.0f} s"

    def _model(self, scope: Scope, body: bytes) -> str:
        """The model's key. Raises RefusalError for a body that is no request, and for a model that is not here."""
        name = None if scope["path"] == "/ask" else read_object(body).get("model")
        key = self._choice.key(None if name is None else str(name))
        if key is None:
            raise no_model(str(name), self._choice.names)
        return key
