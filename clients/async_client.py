"""The thin client for asyncio. Pictures are read and encoded on a thread, so that the event loop goes on."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, TypeVar

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, NotFoundError
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from clients import locate
from clients.client import parsed, text_of
from clients.connection import Connection
from clients.conversation import AsyncConversation
from clients.images import Picture, whole
from clients.limits import Limits, limits_of
from clients.messages import Pictures, messages

Model = TypeVar("Model", bound=BaseModel)


class AsyncClient:
    """As `clients.Client`, method by method, to be awaited; `model` and `limits` are methods here."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout_s: float = 600,
        max_retries: int = 2,
        http_client: Any = None,
    ) -> None:
        self.connection = Connection.to(url, api_key, timeout_s)
        self._model = model
        self._limits: Limits | None = None
        self.openai = AsyncOpenAI(
            base_url=self.connection.base_url,
            api_key=self.connection.api_key,
            timeout=self.connection.timeout,
            max_retries=max_retries,
            http_client=http_client or DefaultAsyncHttpxClient(**self.connection.http),
        )

    async def model(self) -> str:
        """The name of the model that is asked: the first that the server serves, unless one was named."""
        if self._model is None:
            self._model = (await self.openai.models.list()).data[0].id
        return self._model

    async def limits(self) -> Limits:
        """What the server says that it takes; asked for once."""
        if self._limits is None:
            try:
                self._limits = limits_of(await self.openai.get(self.connection.status_url, cast_to=object))
            except NotFoundError:  # another server than onecard
                self._limits = Limits()
        return self._limits

    async def ask(self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any) -> str:
        """The whole answer."""
        completion = await self.complete(pictures, question, system=system, **options)
        return completion.choices[0].message.content or ""

    async def complete(
        self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any
    ) -> ChatCompletion:
        """The SDK's whole object: for tool calls (`tools=[…]`), usage, log probabilities, several answers."""
        asked = await self.messages(pictures, question, system)
        completion: ChatCompletion = await self.openai.chat.completions.create(
            **await self._with_model(options), messages=asked
        )
        return completion

    async def stream(
        self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any
    ) -> AsyncIterator[str]:
        """The answer's text as it comes."""
        async for text in self.texts(await self.messages(pictures, question, system), **options):
            yield text

    async def texts(self, asked: list[Any], **options: Any) -> AsyncIterator[str]:
        """The text of the answer to these messages as it comes."""
        async for chunk in self.chunks(asked, **options):
            if text := text_of(chunk):
                yield text

    async def chunks(self, asked: list[Any], **options: Any) -> AsyncIterator[ChatCompletionChunk]:
        """The SDK's chunks of an answer to these messages; the last one carries the usage."""
        async with await self.openai.chat.completions.create(
            **await self._with_model(options), messages=asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            async for chunk in stream:
                yield chunk

    async def extract(
        self, pictures: Pictures, question: str, into: type[Model], *, system: str | None = None, **options: Any
    ) -> Model:
        """The answer as an object of that pydantic model, whose JSON schema the server holds the answer to.

        Raises openai.LengthFinishReasonError where `max_completion_tokens` cut it short.
        """
        asked = await self.messages(pictures, question, system)
        reply = await self.openai.chat.completions.parse(
            **await self._with_model(options), messages=asked, response_format=into
        )
        return parsed(reply)

    async def locate(self, picture: Picture, what: str, **options: Any) -> list[locate.Box]:
        """Where it is in the picture, in the picture's own pixels. Raises AnswerError where the model does not say."""
        task = locate.Task.of(
            await asyncio.to_thread(whole, picture), await self.model(), (await self.limits()).max_pixels
        )
        return task.boxes(await self.ask(task.picture, locate.question(what), **(locate.OPTIONS | options)))

    async def conversation(self, pictures: Pictures, *, system: str | None = None, **options: Any) -> AsyncConversation:
        """Several questions about the same pictures, each of which knows the answers before."""
        return AsyncConversation(self, await self.messages(pictures, None, system), options)

    async def messages(self, pictures: Pictures, question: str | None, system: str | None = None) -> list[Any]:
        """What `chunks` and `texts` take; the pictures are read here."""
        return await asyncio.to_thread(messages, pictures, question, await self.limits(), system)

    async def _with_model(self, options: dict[str, Any]) -> dict[str, Any]:
        return options if "model" in options else {"model": await self.model()} | options

    async def close(self) -> None:
        await self.openai.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
