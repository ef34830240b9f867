"""The thin client: the official SDK, pointed at onecard (or any server that speaks OpenAI's API)."""

from collections.abc import Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

from openai import DefaultHttpxClient, NotFoundError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ParsedChatCompletion
from pydantic import BaseModel

from clients import locate
from clients.connection import Connection
from clients.conversation import Conversation
from clients.errors import AnswerError
from clients.images import Picture, whole
from clients.limits import Limits, limits_of
from clients.messages import Pictures, messages

Model = TypeVar("Model", bound=BaseModel)


class Client:
    """Asks a server about pictures: paths, bytes, PIL images, numpy arrays, web addresses, PDF files, or lists of those.

    Errors are the SDK's own (`openai.APIError` and its kin), PictureError for what is no picture, and OSError for a file
    that cannot be read. What the server refuses for want of room is asked again after the time that it names, up to
    `max_retries` times. `options` are those of `chat.completions.create`.
    """

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
        self._named = model
        self.openai = OpenAI(
            base_url=self.connection.base_url,
            api_key=self.connection.api_key,
            timeout=self.connection.timeout,
            max_retries=max_retries,
            http_client=http_client or DefaultHttpxClient(**self.connection.http),
        )

    @cached_property
    def model(self) -> str:
        """The name of the model that is asked: the first that the server serves, unless one was named."""
        return self._named or self.openai.models.list().data[0].id

    @cached_property
    def limits(self) -> Limits:
        """What the server says that it takes; asked for once."""
        try:
            return limits_of(self.openai.get(self.connection.status_url, cast_to=object))
        except NotFoundError:  # another server than onecard
            return Limits()

    def ask(self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any) -> str:
        """The whole answer."""
        return self.complete(pictures, question, system=system, **options).choices[0].message.content or ""

    def complete(
        self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any
    ) -> ChatCompletion:
        """The SDK's whole object: for tool calls (`tools=[…]`), usage, log probabilities, several answers."""
        asked = messages(pictures, question, self.limits, system)
        completion: ChatCompletion = self.openai.chat.completions.create(**self._with_model(options), messages=asked)
        return completion

    def stream(self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any) -> Iterator[str]:
        """The answer's text as it comes."""
        yield from self.texts(messages(pictures, question, self.limits, system), **options)

    def texts(self, asked: list[Any], **options: Any) -> Iterator[str]:
        """The text of the answer to these messages as it comes."""
        for chunk in self.chunks(asked, **options):
            if text := text_of(chunk):
                yield text

    def chunks(self, asked: list[Any], **options: Any) -> Iterator[ChatCompletionChunk]:
        """The SDK's chunks of an answer to these messages; the last one carries the usage."""
        with self.openai.chat.completions.create(
            **self._with_model(options), messages=asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            yield from stream

    def extract(
        self, pictures: Pictures, question: str, into: type[Model], *, system: str | None = None, **options: Any
    ) -> Model:
        """The answer as an object of that pydantic model, whose JSON schema the server holds the answer to.

        Raises openai.LengthFinishReasonError where `max_completion_tokens` cut it short.
        """
        asked = messages(pictures, question, self.limits, system)
        reply = self.openai.chat.completions.parse(**self._with_model(options), messages=asked, response_format=into)
        return parsed(reply)

    def locate(self, picture: Picture, what: str, **options: Any) -> list[locate.Box]:
        """Where it is in the picture, in the picture's own pixels. Raises AnswerError where the model does not say."""
        task = locate.Task.of(whole(picture), self.model, self.limits.max_pixels)
        return task.boxes(self.ask(task.picture, locate.question(what), **(locate.OPTIONS | options)))

    def conversation(self, pictures: Pictures, *, system: str | None = None, **options: Any) -> Conversation:
        """Several questions about the same pictures, each of which knows the answers before."""
        return Conversation(self, messages(pictures, None, self.limits, system), options)

    def _with_model(self, options: dict[str, Any]) -> dict[str, Any]:
        return options if "model" in options else {"model": self.model} | options

    def close(self) -> None:
        self.openai.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def text_of(chunk: ChatCompletionChunk) -> str | None:
    return chunk.choices[0].delta.content if chunk.choices else None


def parsed(reply: ParsedChatCompletion[Model]) -> Model:
    """Raises AnswerError where the model called a tool or said nothing instead of answering."""
    found = reply.choices[0].message.parsed
    if found is None:
        raise AnswerError(f"The model gave no answer to parse: {reply.choices[0].message.content!r}")
    return found
