"""Requests that are answered elsewhere: they name another of the configured models, this server is leaving, or another card is
less busy. They go back to the supervisor with their connections; it passes them on to the right server, or holds them until
that is ready."""

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.body import replay, whole_body
from serving.guard.facts import facts
from serving.guard.front import give_request, was_given
from serving.guard.respond import not_ready
from serving.guard.routes import ANSWERS
from serving.guard.state import ServerState


class OtherModelError(Exception):
    """The request names another configured model; raised by the layer that reads it."""


class Elsewhere:
    """Stands inside `Body`: a request is given away whole."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ANSWERS or self._state.channel is None:
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        # A request that was given to us stays, lest two cards pass it back and forth.
        moves = self._state.others_have_less and not (was_given(scope) and self._state.takes_requests)
        if not (self._state.leaving or moves):
            try:
                await self.app(scope, replay(body, receive), send)
                return
            except OtherModelError:
                pass
        if give_request(scope, body, self._state.channel):
            facts(scope).given_away = True
        else:
            await not_ready(self._state.state, "another model is to be loaded", None, close=True)(scope, receive, send)
