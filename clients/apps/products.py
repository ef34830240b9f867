"""Text that sells a product: from its name, category and pictures to selling points, a scenario and a call to action."""

from functools import partial
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from clients.apps.prompts import Language, Prompt, language_of, prompt
from clients.errors import InputError
from clients.messages import Pictures
from clients.task import Task

LENGTH, SHORTEST, LONGEST = 100, 10, 300
# Of the length that was asked for: below it the copy is asked for again.
_LEAST = 0.8
_MAX_TOKENS = 1024
_ENDS = "。！？.!?…"

Point = Annotated[str, Field(min_length=2, max_length=80)]


class ProductCopy(BaseModel):
    """The bounds keep a model that finds no end from filling its context; good copy is far inside them."""

    model_config = ConfigDict(extra="forbid")

    selling_points: list[Point] = Field(min_length=2, max_length=4)
    scenario: str = Field(min_length=2, max_length=300)
    call_to_action: str = Field(min_length=2, max_length=120)

    @property
    def text(self) -> str:
        """All of it, as it stands in a shop."""
        chinese = language_of(self.scenario) == "zh"
        points = ("，" if chinese else ", ").join(point.strip().rstrip(_ENDS) for point in self.selling_points)
        sentences = [
            part if part.endswith(tuple(_ENDS)) else part + ("。" if chinese else ".")
            for part in (points, self.scenario.strip(), self.call_to_action.strip())
        ]
        return ("" if chinese else " ").join(sentences)


def product(
    name: str, category: str, pictures: Pictures, *, language: Language | None = None, length: int = LENGTH
) -> Task[ProductCopy]:
    """`length` is about how many characters; fewer than four fifths of it are asked for again. The language is that of name
    and category unless one is given. Raises InputError for a length that is none."""
    if not SHORTEST <= length <= LONGEST:
        raise InputError(f"A length of {length} characters: {SHORTEST} to {LONGEST} can be asked for.")
    words = prompt("product", language or language_of(name, category))
    return Task(
        pictures,
        words.question.format(name=name, category=category, length=length),
        ProductCopy,
        again=words.again,
        max_tokens=_MAX_TOKENS,
        system=words.system,
        check=partial(_too_short, words, length),
    )


def _too_short(words: Prompt, length: int, copy: ProductCopy) -> str | None:
    characters, least = len(copy.text), round(_LEAST * length)
    if characters >= least:
        return None
    return words.words["too_short"].format(characters=characters, length=length, least=least)
