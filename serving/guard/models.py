"""`/v1/models`: what is served, by its names. vLLM's own list shows the model's folder on this machine."""

import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.launch import Launch


class Models:
    def __init__(self, app: ASGIApp, launch: Launch) -> None:
        self.app = app
        self._names = launch.model_names
        self._context = launch.plan.capacity.max_model_len
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/models":
            await self.app(scope, receive, send)
            return
        data = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "onecard",
                "max_model_len": self._context,
            }
            for name in self._names
        ]
        await JSONResponse({"object": "list", "data": data})(scope, receive, send)
