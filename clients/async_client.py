"""The thin client for asyncio. Pictures are read and encoded on a thread, so that the event loop goes on."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, NotFoundError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from clients import locate
from clients.connection import Connection
from clients.conversation import AsyncConversation
from clients.images import Picture, whole
from clients.limits import Limits, limits_of
from clients.messages import Pictures, messages
from clients.request import STREAM_OPTIONS, Model, Request, first_of, parsed, piece_of, text_of
from clients.task import Task, carry_out_async


class AsyncClient:
    """As `clients.Client`, method by method, which says what they do, to be awaited; `model` and `limits` are methods
    here. What a request and a reply look like is in request.py and messages.py: here is only what waits."""

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
        http_client = http_client or DefaultAsyncHttpxClient(**self.connection.http)
        self.openai = AsyncOpenAI(**self.connection.sdk, max_retries=max_retries, http_client=http_client)

    async def model(self) -> str:
        if self._model is None:
            self._model = first_of((await self.openai.models.list()).data)
        return self._model

    async def limits(self) -> Limits:
        if self._limits is None:
            try:
                self._limits = limits_of(await self.openai.get(self.connection.status_url, cast_to=object))
            except NotFoundError:  # another server than onecard
                self._limits = Limits()
        return self._limits

    async def ask(self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any) -> str:
        return text_of(await self.complete(pictures, question, system=system, **options))

    async def complete(
        self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any
    ) -> ChatCompletion:
        asked = await self.messages(pictures, question, system)
        completion: ChatCompletion = await self.openai.chat.completions.create(**await self._request(asked, options))
        return completion

    async def stream(
        self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any
    ) -> AsyncIterator[str]:
        async for text in self.texts(await self.messages(pictures, question, system), **options):
            yield text

    async def texts(self, asked: list[Any], **options: Any) -> AsyncIterator[str]:
        async for chunk in self.chunks(asked, **options):
            if text := piece_of(chunk):
                yield text

    async def chunks(self, asked: list[Any], **options: Any) -> AsyncIterator[ChatCompletionChunk]:
        request = await self._request(asked, options)
        create = self.openai.chat.completions.create
        async with await create(**request, stream=True, stream_options=STREAM_OPTIONS) as stream:
            async for chunk in stream:
                yield chunk

    async def extract(
        self, pictures: Pictures, question: str, into: type[Model], *, system: str | None = None, **options: Any
    ) -> Model:
        request = await self._request(await self.messages(pictures, question, system), options)
        return parsed(await self.openai.chat.completions.parse(**request, response_format=into))

    async def do(self, task: Task[Model], **options: Any) -> Model:
        asked = await self.messages(task.pictures, task.question, task.system)
        steps = task.steps(await self._request(asked, options))
        return await carry_out_async(steps, lambda request: self.openai.chat.completions.create(**request))

    async def locate(self, picture: Picture, what: str, **options: Any) -> list[locate.Box]:
        image, limits = await asyncio.to_thread(whole, picture), await self.limits()
        task = locate.Task.of(image, await self.model(), limits.max_pixels)
        return task.boxes(await self.ask(task.picture, locate.question(what), **(locate.OPTIONS | options)))

    async def conversation(self, pictures: Pictures, *, system: str | None = None, **options: Any) -> AsyncConversation:
        return AsyncConversation(self, await self.messages(pictures, None, system), options)

    async def messages(self, pictures: Pictures, question: str | None, system: str | None = None) -> list[Any]:
        return await asyncio.to_thread(messages, pictures, question, await self.limits(), system)

    async def _request(self, asked: list[Any], options: Request) -> Request:
        model = {} if "model" in options else {"model": await self.model()}
        return {**model, **options, "messages": asked}

    async def close(self) -> None:
        await self.openai.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
