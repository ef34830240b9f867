"""Request bodies: read whole, counted as they arrive, refused with 413 as soon as they are too large."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.respond import refuse


class Body:
    """Leaves the body as one message for the layers below; a chunked body without a length is counted all the same."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body = None if declared.isdigit() and int(declared) > self._max_bytes else await self._read(receive)
        if body is None:
            message = f"The request is larger than {self._max_bytes // 2**20} MiB, which is this profile's limit."
            await refuse(413, message, code="request_too_large", headers={"Connection": "close"})(scope, receive, send)
        else:
            await self.app(scope, replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)


async def whole_body(receive: Receive) -> bytes:
    """The body that `Body` left as one message."""
    message = await receive()
    return bytes(message.get("body", b""))


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once and then what the connection really says (that the client has left)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
