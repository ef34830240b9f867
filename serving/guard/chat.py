"""Chat requests before vLLM sees them: no fetching of URLs unless switched on, pictures counted, answers bounded."""

from typing import Any

from pydantic_core import from_json, to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.body import replay, whole_body
from serving.guard.respond import refuse
from serving.profile import Limits


class Chat:
    """Parses the body once. What it does not look at is vLLM's to judge."""

    def __init__(self, app: ASGIApp, limits: Limits, default_max_tokens: int, *, allow_image_urls: bool) -> None:
        self.app = app
        self._limits = limits
        self._default_max_tokens = default_max_tokens
        self._allow_image_urls = allow_image_urls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/chat/completions":
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        try:
            request = from_json(body)
        except ValueError as error:
            await refuse(400, f"The body is not valid JSON: {error}.", code="invalid_json")(scope, receive, send)
            return
        if not isinstance(request, dict):
            await refuse(400, "The body must be a JSON object.", code="invalid_json")(scope, receive, send)
            return
        if problem := self._problem(request):
            await refuse(400, problem, param="messages", code="invalid_image")(scope, receive, send)
            return
        if request.get("max_tokens") is None and request.get("max_completion_tokens") is None:
            # Without this an answer may run to the end of the context and hold its memory as long.
            request["max_completion_tokens"] = self._default_max_tokens
            body = to_json(request)
            scope = {**scope, "headers": _with_length(scope["headers"], len(body))}
        await self.app(scope, replay(body, receive), send)

    def _problem(self, request: dict[str, Any]) -> str | None:
        """Why the pictures of a request cannot be taken; None when they can."""
        urls = list(_image_urls(request.get("messages")))
        if len(urls) > self._limits.max_images_per_request:
            return f"The request has {len(urls)} pictures; this profile takes {self._limits.max_images_per_request}."
        for url in urls:
            if not isinstance(url, str):
                return "An `image_url` part needs a `url` that is a string."
            if url[:5].lower() != "data:" and not (self._allow_image_urls and url.startswith(("http://", "https://"))):
                return (
                    "This server does not fetch pictures from the web: send the picture itself as a data URL "
                    "(`onecard ask photo.jpg` and the Python client do). Whoever runs the server can allow http(s) "
                    "URLs with `onecard serve --allow-image-urls`."
                )
        return None


def _image_urls(messages: Any) -> Any:
    """Every picture of the conversation, in the forms that vLLM accepts: {"image_url": {"url": ...}} or a bare string."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and "image_url" in part:
                image = part["image_url"]
                yield image.get("url") if isinstance(image, dict) else image


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]
