"""Which routes there are. Everything else is 404, whatever vLLM offers behind it."""

import difflib

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.respond import refuse, wrong_method

MODELS = "/v1/models"
ROUTES: dict[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset({"POST"}),
    "/v1/completions": frozenset({"POST"}),
    MODELS: frozenset({"GET", "HEAD"}),
    "/ask": frozenset({"POST"}),
    "/metrics": frozenset({"GET", "HEAD"}),
    "/onecard/status": frozenset({"GET", "HEAD"}),
}
# Those for which the model is needed.
ANSWERS = frozenset({"/v1/chat/completions", "/v1/completions", "/ask"})
# OpenAI's other way to an answer, which is not here: what stands in for it.
_INSTEAD = {"/v1/responses": "/v1/chat/completions"}
# What the layer above answers: named when a request nearly hit it.
OPEN = ("/health", "/ready")


def route_of(path: str) -> str:
    """The route that a path belongs to: a model's own, `/v1/models/NAME`, is the list's. Any other path is itself."""
    return MODELS if path.startswith(f"{MODELS}/") and path != f"{MODELS}/" else path


class Routes:
    """Compares the decoded path as a whole: no trailing slash, no encoded detour, and no prefix but a model's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (methods := ROUTES.get(route_of(scope["path"]))) is None:
            await refuse(404, _not_found(scope["path"]), "not_found_error", code="not_found")(scope, receive, send)
        elif scope["method"] not in methods:
            await wrong_method(scope, methods)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _not_found(path: str) -> str:
    shown = path[:80]
    if shown in _INSTEAD:
        return f"There is no {shown!r} here, but {_INSTEAD[shown]}."
    near = difflib.get_close_matches("/" + shown.strip("/"), [*ROUTES, *OPEN], n=1, cutoff=0.75)
    if not near:
        near = [route for route in ROUTES if len(shown) > 3 and route.endswith("/" + shown.strip("/"))]
    return f"There is no {shown!r} here." + (f" Did you mean {near[0]}?" if near else "")
