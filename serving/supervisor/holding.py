"""Requests that wait in the supervisor for their model: it is asleep, being loaded, or another model is served. They are
bounded in number, in bytes and in time, and a client may leave at any moment.

A request that may go on is handed to the server together with its connection (ipc/handover.py), which answers as if it had
come there in the first place. Which model is loaded is decided in swap.py, and done by the supervisor.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.body import Body, HeldBodies, whole_body
from serving.guard.content import Content
from serving.guard.front import give_request
from serving.guard.gate import overloaded
from serving.guard.json_body import read_object
from serving.guard.models import no_model
from serving.guard.refusal import RefusalError
from serving.guard.respond import not_ready
from serving.ipc.handover import Channel
from serving.ipc.settings import GuardSettings
from serving.supervisor.hold import Hold, Place
from serving.supervisor.situation import Situation
from serving.supervisor.swap import Choice

_FULL_RETRY_S = 10


class Holding:
    """An ASGI application for requests that need a model. `channels_to` gives the channels to a model's ready servers, the
    best first."""

    def __init__(
        self,
        hold: Hold,
        choice: Choice,
        settings: GuardSettings,
        situation: Situation,
        channels_to: Callable[[str], list[Channel]],
    ) -> None:
        self._hold = hold
        self._choice = choice
        self._deadline_s = settings.wake_deadline_s
        self._situation = situation
        self._channels_to = channels_to
        self._bodies = HeldBodies(choice.max_body_bytes)
        read = Body(self._wait, choice.max_body_bytes, settings.body_timeout_s)
        self._app: ASGIApp = Content(self._bounded(read))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _bounded(self, app: ASGIApp) -> ASGIApp:
        async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
            size = self._bodies.size(scope)
            if len(self._hold.places) >= self._hold.most or not self._bodies.fits(size):
                await overloaded(_FULL_RETRY_S)(scope, receive, send)
                return
            with self._bodies.hold(size):
                await app(scope, receive, send)

        return bounded

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole_body(receive)
        try:
            model = self._model(scope, body)
        except RefusalError as refusal:
            await refusal.response()(scope, receive, send)
            return
        channels, why = self._channels_to(model), ""
        if not channels:
            with self._hold.place(model) as place:
                told = await self._told(place, receive)
            if told is None:
                return
            if isinstance(told, Channel):
                channels = [told]
            else:
                why = told
        # A server that has died takes nothing, and may not yet be known to be dead.
        if any(give_request(scope, body, channel) for channel in channels):
            return
        now = self._situation
        await not_ready(now.state, why or now.doing, now.seconds_left, close=True)(scope, receive, send)

    async def _told(self, place: Place, receive: Receive) -> Channel | str | None:
        """What the place is told; why not, where the deadline comes first; None where the client leaves first."""
        # The body has been read: all that can still come is that the client has left.
        left = asyncio.ensure_future(receive())
        told: set[asyncio.Future[object]] = {place.told, left}  # type: ignore[arg-type]
        await asyncio.wait(told, timeout=self._deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if place.told.done():
            left.cancel()
            return place.told.result()
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
