"""`/onecard/status`, and 503 for what comes before the warm-up is done."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.respond import not_ready
from serving.guard.state import ServerState
from serving.progress import TITLES


class Status:
    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/onecard/status":
            await JSONResponse(self._state.status())(scope, receive, send)
        elif scope["type"] == "http" and self._state.state != "ready" and scope["path"] != "/metrics":
            answer = not_ready(self._state.state, TITLES["warmup"], self._state.seconds_left())
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)
