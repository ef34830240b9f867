"""`/onecard/status`, and 503 for what comes before the warm-up is done, after the end has begun, or while the engine is
started again."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.respond import not_ready
from serving.guard.state import ServerState


class Status:
    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._state
        if scope["type"] == "http" and scope["path"] == "/onecard/status":
            await JSONResponse(state.status())(scope, receive, send)
        elif scope["type"] == "http" and not state.takes_requests and scope["path"] != "/metrics":
            # The connection is closed: the next one may be another process's.
            answer = not_ready(state.state, state.doing, state.seconds_left(), close=state.state != "warming")
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)
