"""What guard and waiting room both answer: the probes, "not ready", and refusals in OpenAI's shape, which the SDK turns
into its own exception classes."""

from collections.abc import Iterable

from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from serving.ipc.status import error_body, not_ready_message, retry_after

_READS = frozenset({"GET", "HEAD"})


def probe(scope: Scope, state: str, *, ready: bool) -> Response | None:
    """The answer to `/health` (somebody answers) and `/ready` (a question would be answered here); None to all else."""
    path = scope.get("path")
    if scope["type"] != "http" or path not in ("/health", "/ready"):
        return None
    if scope["method"] not in _READS:
        return wrong_method(scope, _READS)
    if path == "/health":
        return JSONResponse({"status": "alive"})
    return JSONResponse({"ready": ready, "state": state}, 200 if ready else 503)


def asks_again(scope: Scope) -> bool:
    """Whether OpenAI's SDK says that it has been refused before. It counts its tries in this header, in every language, and
    gives up after the third; so the second is better held than told again how long a start may take."""
    count = dict(scope["headers"]).get(b"x-stainless-retry-count", b"")
    return count.isdigit() and int(count[:9]) > 0


def wrong_method(scope: Scope, taken: Iterable[str]) -> Response:
    """405 with the methods that the path takes."""
    allowed = ", ".join(sorted(taken))
    message = f"{scope['path']} takes {allowed}, not {scope['method'][:16]}."
    return refuse(405, message, code="method_not_allowed", headers={"Allow": allowed})


def not_ready(state: str, doing: str, seconds_left: float | None, *, close: bool = False) -> Response:
    """503 with the step that is running and when to come back. `close` ends the connection: the next one may be
    another process's."""
    headers = {"Retry-After": str(retry_after(seconds_left))} | ({"Connection": "close"} if close else {})
    message = not_ready_message(state, doing, seconds_left)
    return refuse(503, message, "server_error", code="not_ready", headers=headers)


def refuse(
    status: int,
    message: str,
    kind: str = "invalid_request_error",
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An ASGI application that answers with that error."""
    body = error_body(message, kind, param=param, code=code)
    return Response(body, status, headers, media_type="application/json")
