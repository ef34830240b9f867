"""A request as `chat.completions.create` takes it, and what is read of a reply: what both clients share, who only send."""

from typing import Any, TypeVar

from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionStreamOptionsParam,
    ParsedChatCompletion,
)
from pydantic import BaseModel

from clients.errors import AnswerError

Model = TypeVar("Model", bound=BaseModel)
Request = dict[str, Any]
# Of what is streamed: the last chunk carries the usage.
STREAM_OPTIONS: ChatCompletionStreamOptionsParam = {"include_usage": True}


def first_of(models: list[Any]) -> str:
    """The name of the model that is asked where none was named. Raises AnswerError where there is none."""
    if not models:  # as of a server of several that has none yet
        raise AnswerError("The server serves no model: its list of them is empty.")
    return str(models[0].id)


def text_of(reply: ChatCompletion) -> str:
    return reply.choices[0].message.content or ""


def piece_of(chunk: ChatCompletionChunk) -> str:
    return chunk.choices[0].delta.content or "" if chunk.choices else ""


def why_not_sent(error: UnicodeEncodeError) -> str:
    """What the SDK meets where a text was cut within a character, or typed in another encoding than the terminal's."""
    return (
        f"The text is not Unicode and cannot be sent: {error.object[error.start : error.end]!a} in it is no character."
    )


def parsed(reply: ParsedChatCompletion[Model]) -> Model:
    """Raises AnswerError where the model called a tool or said nothing instead of answering."""
    found = reply.choices[0].message.parsed
    if found is None:
        raise AnswerError(f"The model gave no answer to parse: {reply.choices[0].message.content!r}")
    return found
