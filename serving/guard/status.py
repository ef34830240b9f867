"""`/onecard/status`, and 503 for what comes before the warm-up is done, after the end has begun, or while the engine is
started again."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.state import ServerState


class Status:
    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/onecard/status":
            await JSONResponse(self._state.status())(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] != "/metrics" and (refusal := self._state.refusal()):
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)
