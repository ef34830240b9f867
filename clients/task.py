"""A question whose answer has a form: asked, read, and asked again with what was wrong, so many times and no more.

Owns what is asked next and when that ends; sends nothing. `Task.steps` yields requests and is handed the replies, so that
Client, AsyncClient and a batch carry out the same task, each in its way.
"""

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from clients.errors import AnswerError
from clients.messages import Pictures
from clients.request import Model, Request, text_of
from clients.schema import format_of

ATTEMPTS = 3
# Of an answer that will not do, in characters: what the model is shown of it again (more of a loop would feed the loop), and
# what an error quotes.
_SHOWN, _QUOTED = 600, 200

Steps: TypeAlias = Generator[Request, ChatCompletion, Model]


@dataclass(frozen=True)
class Task(Generic[Model]):
    """`again` is what the model is told of an answer that will not do, with `{problem}` in it. `check` finds what a schema
    cannot say, and says it in words for the model, or None. `max_tokens` is room for the longest answer of that form."""

    pictures: Pictures
    question: str
    into: type[Model]
    again: str
    max_tokens: int
    system: str | None = None
    check: Callable[[Model], str | None] = lambda _: None

    def steps(self, request: Request) -> Steps[Model]:
        """From a request with the task's messages to its result. Raises AnswerError when no answer had the form."""
        request = {"max_completion_tokens": self.max_tokens, **request, "response_format": format_of(self.into)}
        asked, text, problem = request["messages"], "", ""
        for _ in range(ATTEMPTS):
            reply = yield request
            text = text_of(reply)
            found = self._read(reply, text)
            if not isinstance(found, str):
                return found
            problem = found
            # Only the latest failure is shown: three would not make it clearer, and fill the context.
            shown, complaint = text[:_SHOWN], self.again.format(problem=problem)
            request = {**request, "messages": [*asked, _said("assistant", shown), _said("user", complaint)]}
        raise AnswerError(
            f"The model was asked {ATTEMPTS} times and no answer was usable. The last one: {problem} It began "
            f"{text[:_QUOTED]!r}."
        )

    def _read(self, reply: ChatCompletion, text: str) -> Model | str:
        """The result, or why the answer is none."""
        if reply.choices[0].finish_reason == "length":
            return "The answer was cut off before it was complete: it must be shorter."
        try:
            found = self.into.model_validate_json(text)
        except ValidationError as error:
            return "; ".join(_told(each["loc"], each["msg"]) for each in error.errors()[:3]) + "."
        return self.check(found) or found


def carry_out(steps: Steps[Model], send: Callable[[Request], ChatCompletion]) -> Model:
    """Sends what the steps yield until they have the result."""
    request = next(steps)
    while True:
        reply = send(request)
        try:
            request = steps.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


async def carry_out_async(steps: Steps[Model], send: Callable[[Request], Awaitable[ChatCompletion]]) -> Model:
    """As `carry_out`, awaiting what is sent."""
    request = next(steps)
    while True:
        reply = await send(request)
        try:
            request = steps.send(reply)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def _told(where: tuple[int | str, ...], what: str) -> str:
    return f"{'.'.join(map(str, where))}: {what}" if where else what


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}
