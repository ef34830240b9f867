"""What a body says it is: JSON (or a form, for `/ask`), not compressed. Anything else is 415 before it is read."""

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.respond import refuse

_FORMS = frozenset({"/ask"})


class Content:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (problem := _problem(scope)):
            await refuse(415, problem, code="unsupported_media_type")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _problem(scope: Scope) -> str | None:
    headers = dict(scope["headers"])
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        return "Compressed bodies are not taken: send the request without Content-Encoding."
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    if scope["path"] in _FORMS:
        if kind.strip() != b"multipart/form-data":
            return f"{scope['path']} takes a form: curl -F image=@photo.jpg -F question='What is this?' …"
        return None
    if kind.strip() != b"application/json":
        return "The body must be JSON, and say so: `Content-Type: application/json`."
    charset = parameters.partition(b"charset=")[2].partition(b";")[0].strip(b' "')
    if charset and charset not in (b"utf-8", b"utf8"):
        return "The body must be UTF-8."
    return None
