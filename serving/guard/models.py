"""`/v1/models`: the names that a request may give; `loaded` says which model is in memory and answers at once. vLLM's own list
would show the model's folder on this machine."""

import time
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.ipc.launch import Launch

_BEGAN = int(time.time())


def models_body(launch: Launch, *, loaded: bool) -> dict[str, Any]:
    """The JSON of the list: the launch's model first, then those that can take its place."""
    offers = [(launch.offered, loaded), *((other, False) for other in launch.others)]
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": _BEGAN,
                "owned_by": "onecard",
                "max_model_len": offer.max_model_len,
                "loaded": is_loaded,
            }
            for offer, is_loaded in offers
            for name in offer.names
        ],
    }


class Models:
    def __init__(self, app: ASGIApp, launch: Launch) -> None:
        self.app = app
        self._body = models_body(launch, loaded=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/models":
            await self.app(scope, receive, send)
            return
        await JSONResponse(self._body)(scope, receive, send)
