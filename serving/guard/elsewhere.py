"""Requests that are answered elsewhere: for another of the configured models, since this server is about to leave, or since
another card's has less to do. They go back to the supervisor with their connection, which gives them to the server that they
need, or holds them until it is ready."""

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
    """Sits behind `Body`, since a request is given away whole."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ANSWERS or self._state.channel is None:
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        # One that was given here stays, lest two cards give it to each other.
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
