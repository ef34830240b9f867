"""`/v1/models`: the names that a request may give; `loaded` says which model is in memory and answers at once. vLLM's own list
would show the model's folder on this machine. `/v1/models/NAME` is one entry of it."""

import time
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.refusal import RefusalError
from serving.guard.routes import MODELS, route_of
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


def no_model(name: str, known: frozenset[str]) -> RefusalError:
    """404 with what there is."""
    return RefusalError(
        f"There is no model {name[:80]!r} here; there is {', '.join(sorted(known))}.",
        param="model",
        code="model_not_found",
        status=404,
    )


def models_answer(path: str, body: dict[str, Any]) -> Response:
    """The list, or the one that the path names."""
    if path == MODELS:
        return JSONResponse(body)
    known = {model["id"]: model for model in body["data"]}
    name = path.removeprefix(f"{MODELS}/")
    return JSONResponse(known[name]) if name in known else no_model(name, frozenset(known)).response()


class Models:
    def __init__(self, app: ASGIApp, launch: Launch) -> None:
        self.app = app
        self._body = models_body(launch, loaded=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_of(scope["path"]) != MODELS:
            await self.app(scope, receive, send)
            return
        await models_answer(scope["path"], self._body)(scope, receive, send)
