"""A table as documents and terminals show it, and what the documents say around one in both of their languages."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

Language = Literal["en", "zh"]
Table = Callable[[Sequence[str], Iterator[Sequence[str]]], str]

NOT_MEASURED: dict[Language, str] = {"en": "Not measured yet.", "zh": "尚未测量。"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def listed(language: Language, *words: str) -> str:
    """Words with commas between them."""
    return {"en": ", ", "zh": "，"}[language].join(words)
