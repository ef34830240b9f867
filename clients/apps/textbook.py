"""Exercises from a page of a textbook, with their solutions and how hard they are."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from clients.apps.prompts import Language, language_of, prompt
from clients.errors import InputError
from clients.messages import Pictures
from clients.task import Task

COUNT, MOST = 3, 10
# Room for the longest exercise that the bounds below allow, in Chinese, and for several in the smallest contexts.
_MAX_TOKENS_EACH = 600


class Exercise(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=300)
    solution: str = Field(min_length=1, max_length=400)
    difficulty: Literal["easy", "medium", "hard"]


class Exercises(BaseModel):
    model_config = ConfigDict(extra="forbid")

    exercises: list[Exercise]


def exercises(
    page: Pictures, *, count: int = COUNT, topic: str = "", language: Language | None = None
) -> Task[Exercises]:
    """So many exercises about what the page teaches, and there above all about `topic` if it is given. The language is that
    of the topic, else that of the page, unless one is given. Raises InputError for a count that is none."""
    if not 1 <= count <= MOST:
        raise InputError(f"{count} exercises of a page: 1 to {MOST} can be asked for.")
    words = prompt("exercises", language or language_of(topic))
    named = words.words["language" if language or topic else "page"]
    topic = words.words["topic"].format(topic=topic) if topic else ""
    return Task(
        page,
        words.question.format(topic=topic, count=count, language=named),
        _exactly(count),
        again=words.again,
        max_tokens=count * _MAX_TOKENS_EACH,
        system=words.system,
    )


def markdown(page: str, found: Exercises) -> str:
    """A section for people: title, exercises, solutions; its own words are in the language of the exercises."""
    words = prompt("exercises", language_of(*(each.question for each in found.exercises))).words
    parts = [f"## {page}"]
    for number, each in enumerate(found.exercises, 1):
        parts.append(f"{number}. **[{words[each.difficulty]}]** {_indented(each.question)}")
        parts.append(f"   **{words['solution']}**: {_indented(each.solution)}")
    return "\n\n".join(parts) + "\n"


def _exactly(count: int) -> type[Exercises]:
    """The number stands in the schema, so that the server holds the model to it."""
    several: Any = Annotated[list[Exercise], Field(min_length=count, max_length=count)]
    return create_model("Exercises", __base__=Exercises, exercises=(several, ...))


def _indented(text: str) -> str:
    """Later lines stay inside the list item."""
    return text.strip().replace("\n", "\n   ")
