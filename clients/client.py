"""The thin client: the official SDK, pointed at onecard (or any server that speaks OpenAI's API)."""

from collections.abc import Iterator
from functools import cached_property
from types import TracebackType
from typing import Any

from openai import DefaultHttpxClient, NotFoundError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from clients import locate
from clients.connection import Connection
from clients.conversation import Conversation
from clients.images import Picture, whole
from clients.limits import Limits, limits_of
from clients.messages import Pictures, messages
from clients.request import STREAM_OPTIONS, Model, Request, first_of, parsed, piece_of, text_of
from clients.task import Task, carry_out


class Client:
    """Asks a server about pictures: paths, bytes, PIL images, numpy arrays, web addresses, PDF files, videos, or lists of
    those.

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
        http_client = http_client or DefaultHttpxClient(**self.connection.http)
        self.openai = OpenAI(**self.connection.sdk, max_retries=max_retries, http_client=http_client)

    @cached_property
    def model(self) -> str:
        """The name of the model that is asked: the first that the server serves, unless one was named."""
        return self._named or first_of(self.openai.models.list().data)

    @cached_property
    def limits(self) -> Limits:
        """What the server says that it takes; asked for once."""
        try:
            return limits_of(self.openai.get(self.connection.status_url, cast_to=object))
        except NotFoundError:  # another server than onecard
            return Limits()

    def ask(self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any) -> str:
        """The whole answer."""
        return text_of(self.complete(pictures, question, system=system, **options))

    def complete(
        self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any
    ) -> ChatCompletion:
        """The SDK's whole object: for tool calls (`tools=[…]`), usage, log probabilities, several answers."""
        asked = self.messages(pictures, question, system)
        completion: ChatCompletion = self.openai.chat.completions.create(**self._request(asked, options))
        return completion

    def stream(self, pictures: Pictures, question: str, *, system: str | None = None, **options: Any) -> Iterator[str]:
        """The answer's text as it comes."""
        yield from self.texts(self.messages(pictures, question, system), **options)

    def texts(self, asked: list[Any], **options: Any) -> Iterator[str]:
        """The text of the answer to these messages as it comes."""
        return filter(None, map(piece_of, self.chunks(asked, **options)))

    def chunks(self, asked: list[Any], **options: Any) -> Iterator[ChatCompletionChunk]:
        """The SDK's chunks of an answer to these messages; the last one carries the usage."""
        request = self._request(asked, options)
        with self.openai.chat.completions.create(**request, stream=True, stream_options=STREAM_OPTIONS) as stream:
            yield from stream

    def extract(
        self, pictures: Pictures, question: str, into: type[Model], *, system: str | None = None, **options: Any
    ) -> Model:
        """The answer as an object of that pydantic model, whose JSON schema the server holds the answer to.

        Raises openai.LengthFinishReasonError where `max_completion_tokens` cut it short.
        """
        asked = self.messages(pictures, question, system)
        return parsed(self.openai.chat.completions.parse(**self._request(asked, options), response_format=into))

    def do(self, task: Task[Model], **options: Any) -> Model:
        """The result of a task, such as those of `clients.apps`. Raises AnswerError where no answer had its form."""
        asked = self.messages(task.pictures, task.question, task.system)
        steps = task.steps(self._request(asked, options))
        return carry_out(steps, lambda request: self.openai.chat.completions.create(**request))

    def locate(self, picture: Picture, what: str, **options: Any) -> list[locate.Box]:
        """Where it is in the picture, in the picture's own pixels. Raises AnswerError where the model does not say."""
        task = locate.Task.of(whole(picture), self.model, self.limits.max_pixels)
        return task.boxes(self.ask(task.picture, locate.question(what), **(locate.OPTIONS | options)))

    def conversation(self, pictures: Pictures, *, system: str | None = None, **options: Any) -> Conversation:
        """Several questions about the same pictures, each of which knows the answers before."""
        return Conversation(self, self.messages(pictures, None, system), options)

    def messages(self, pictures: Pictures, question: str | None, system: str | None = None) -> list[Any]:
        """What `chunks` and `texts` take; the pictures are read here."""
        return messages(pictures, question, self.limits, system)

    def _request(self, asked: list[Any], options: Request) -> Request:
        model = {} if "model" in options else {"model": self.model}
        return {**model, **options, "messages": asked}

    def close(self) -> None:
        self.openai.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
