"""What guard and waiting room both answer: the probes, "not ready", and refusals in OpenAI's shape, which the SDK turns
into its own exception classes."""

from starlette.responses import JSONResponse, Response

from serving.status import error_body, not_ready_message, retry_after


def alive() -> Response:
    """`/health`: somebody answers."""
    return JSONResponse({"status": "alive"})


def readiness(state: str, *, ready: bool) -> Response:
    """`/ready`: 200 when a question would be answered here."""
    return JSONResponse({"ready": ready, "state": state}, 200 if ready else 503)


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
