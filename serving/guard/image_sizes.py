"""The header that tells at which size the model saw each picture: coordinates in the answer refer to it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.images.seen import collect_sizes

HEADER = b"x-onecard-image-sizes"


class ImageSizes:
    """Adds `x-onecard-image-sizes: 1248x928, 640x480` (width x height, in the request's order) to answers about
    pictures. They are prepared before an answer begins, a streamed one too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        seen = collect_sizes()

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and (sizes := str(seen)):
                message = {**message, "headers": [*message.get("headers", []), (HEADER, sizes.encode())]}
            await send(message)

        await self.app(scope, receive, tell)
