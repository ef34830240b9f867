"""Refusals in OpenAI's shape, which the SDK turns into its own exception classes."""

from starlette.responses import Response

from serving.status import error_body


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
