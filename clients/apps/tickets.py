"""A customer's screenshot and message: what is wrong, what to do, how urgent it is, and whether a person is needed."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from clients.apps.prompts import Language, language_of, prompt
from clients.errors import InputError
from clients.messages import Pictures
from clients.task import Task

_MAX_TOKENS = 1536

Step = Annotated[str, Field(min_length=1, max_length=160)]


class Ticket(BaseModel):
    model_config = ConfigDict(extra="forbid")

    problem: str = Field(min_length=1, max_length=300)
    steps: list[Step] = Field(min_length=1, max_length=6)
    urgency: Literal["low", "medium", "high", "critical"]
    needs_person: bool


def support(screenshots: Pictures, message: str, *, language: Language | None = None) -> Task[Ticket]:
    """The language is that of the message unless one is given. Raises InputError for an empty message."""
    if not message.strip():
        raise InputError("The customer's message is empty; without one there is `onecard ask`.")
    words = prompt("support", language or language_of(message))
    return Task(
        screenshots,
        words.question.format(message=message),
        Ticket,
        again=words.again,
        max_tokens=_MAX_TOKENS,
        system=words.system,
    )


def as_text(ticket: Ticket) -> str:
    """For people, in the language of the ticket."""
    words = prompt("support", language_of(ticket.problem, *ticket.steps)).words
    steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(ticket.steps, 1))
    person = words["person" if ticket.needs_person else "no_person"]
    return (
        f"{words['problem']}: {ticket.problem}\n{words['steps']}:\n{steps}\n"
        f"{words['urgency']}: {words[ticket.urgency]}; {person}\n"
    )
