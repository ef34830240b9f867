"""`POST /ask`: one picture and one question as a form, as in `curl -F image=@photo.jpg -F question=… localhost:8000/ask`.

It becomes a chat request and goes on down the stack, so that there is one way to an answer.
"""

import base64
import sys
import time
from typing import Any

import httpx
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard import in_process
from serving.guard.body import ClientLeftError, replay, whole_body
from serving.guard.respond import refuse

DEFAULT_QUESTION = "描述这张图片"


class _Form(MultiPartParser):
    """In memory, where the body is already: a picture needs no disk, which may be full, and is left on none."""

    spool_max_size = sys.maxsize


class Ask:
    """Answers `{"response": str, "time_taken": seconds, "success": bool}`."""

    def __init__(self, app: ASGIApp, model: str) -> None:
        self.app = app
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/ask":
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        if _breaks_off(Request(scope).headers.get("content-type", ""), body):
            reason = "The form cannot be read: it breaks off before its closing boundary."
            await refuse(400, reason, param="image")(scope, receive, send)
            return
        try:
            answer = await self._answer(Request(scope, replay(body, receive)))
        except ClientLeftError:
            return
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        began = time.monotonic()
        try:
            picture, question = await _read(request)
        except MultiPartException as error:
            return refuse(400, f"The form cannot be read: {error.message}", param="image")
        except UnicodeError:
            return refuse(400, "The question is no text in the charset that the form names.", param="question")
        url = "data:;base64," + base64.b64encode(picture).decode()
        reply = await self._chat(request, url, question)
        if reply.status_code != 200:
            return Response(reply.content, reply.status_code, dict(reply.headers))  # when to ask again is in them
        answer = reply.json()["choices"][0]["message"]["content"]
        seconds = round(time.monotonic() - began, 3)
        return JSONResponse({"response": answer, "time_taken": seconds, "success": True})

    async def _chat(self, request: Request, url: str, question: str) -> httpx.Response:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]
        body = {"model": self._model, "messages": [{"role": "user", "content": content}]}
        async with in_process.client(self.app, request.scope, request.receive) as client:
            return await client.post("/v1/chat/completions", json=body)


async def _read(request: Request) -> tuple[bytes, str]:
    """The picture and the question. Raises MultiPartException, and UnicodeError for a question that is no text."""
    # `Content` has seen that it is a form, and `Body` has bounded it. A question is small, and there is one picture.
    form = await _Form(request.headers, request.stream(), max_files=1, max_fields=4).parse()
    try:
        image, question = form.get("image"), form.get("question") or DEFAULT_QUESTION
        if not isinstance(image, UploadFile) or not isinstance(question, str):
            raise MultiPartException("It needs a file `image`, and `question` as text.")
        question.encode()  # some charsets can write what no text of Unicode has
        return await image.read(), question
    finally:
        await form.close()


def _breaks_off(content_type: str, body: bytes) -> bool:
    """Whether a form's closing boundary (RFC 2046, 5.1.1) is missing. Starlette would leave the picture's file open then."""
    _, options = parse_options_header(content_type)
    closing = b"--" + options.get(b"boundary", b"") + b"--"
    return b"boundary" in options and not body.startswith(closing) and b"\r\n" + closing not in body
