"""`/onecard/status`, and 503 before the warm-up is done, during shutdown, and while the engine restarts. On a server that was
woken by a request, requests wait for the warm-up instead; so do clients that ask again on any server."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.engine.measured import held_now
from serving.guard.facts import facts
from serving.guard.front import give_request, was_given
from serving.guard.respond import asks_again
from serving.guard.routes import ANSWERS
from serving.guard.state import ServerState

# With several cards, the supervisor answers these: it knows about all of them.
_OF_ALL_CARDS = frozenset({"/onecard/status", "/metrics"})


class Status:
    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._state
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] in ANSWERS and state.holds(again=asks_again(scope)):
            await state.warmed()
        if state.board and state.channel and scope["path"] in _OF_ALL_CARDS and not was_given(scope):
            facts(scope).given_away = give_request(scope, b"", state.channel)
            if facts(scope).given_away:
                return
        open_now = state.leaving or state.others_serve or scope["path"] == "/metrics"
        if scope["path"] == "/onecard/status":
            if state.state == "ready" and (application := scope.get("app")):
                state.measured |= await held_now(application, state.launch.plan)
            await JSONResponse(state.status())(scope, receive, send)
        elif not open_now and (refusal := state.refusal()):
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)
