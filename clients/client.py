"""The thin client: the official SDK, pointed at onecard."""

from collections.abc import Iterator, Sequence
from typing import Any

from openai import DefaultHttpxClient, OpenAI
from openai.types.chat import ChatCompletionChunk

from clients.images import data_url, read_image


class Client:
    """Asks a onecard server about pictures. Errors are the SDK's own (`openai.APIError` and its kin).

    `url` is the server's, without `/v1`. Proxies of the environment are never used for it: they have no business
    with a server on this machine or in this room.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", api_key: str = "none", *, timeout_s: float = 600) -> None:
        self.openai = OpenAI(
            base_url=url.rstrip("/") + "/v1",
            api_key=api_key,
            http_client=DefaultHttpxClient(trust_env=False, timeout=timeout_s),
        )

    def model(self) -> str:
        """The name of the model that is served."""
        return self.openai.models.list().data[0].id

    def ask(self, images: str | bytes | Sequence[str | bytes], question: str, **options: Any) -> str:
        """The whole answer about one picture or several (paths or bytes)."""
        messages = _messages(images, question)
        model = options.pop("model", None) or self.model()
        reply = self.openai.chat.completions.create(model=model, messages=messages, **options)
        return str(reply.choices[0].message.content)

    def stream(
        self, images: str | bytes | Sequence[str | bytes], question: str, **options: Any
    ) -> Iterator[ChatCompletionChunk]:
        """The answer's chunks as they come; the last one carries the usage."""
        messages = _messages(images, question)
        yield from self.openai.chat.completions.create(
            model=options.pop("model", None) or self.model(),
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )


def _messages(images: str | bytes | Sequence[str | bytes], question: str) -> Any:
    several = [images] if isinstance(images, str | bytes) else images
    pictures = [image if isinstance(image, bytes) else read_image(image) for image in several]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
