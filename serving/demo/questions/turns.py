"""A conversation about pictures, as data."""

import random
from dataclasses import dataclass
from typing import Any

from serving.demo.pictures.scene import Scene, Split
from serving.demo.questions.asking import Ask
from serving.demo.questions.phrases import casual, phrase
from serving.demo.vocabulary import Language


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its right answer. `unseen_phrasing`: worded as training never words it."""

    question: str
    answer: str
    kind: str
    language: Language
    unseen_phrasing: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns about the same pictures (none, one or several), with what a program may send along. The pictures come
    first in the first user turn, before its text."""

    images: list[Scene]
    turns: list[Turn]
    system: str | None = None
    tools: list[dict[str, Any]] | None = None


def worded(rng: random.Random, kind: str, ask: Ask, language: Language, split: Split, index: int | None = None) -> Turn:
    """A question in someone's words. `index`: which of several pictures it is about."""
    text, unseen = phrase(rng, ask.key, language, ask.slots, index, split)
    return Turn(casual(rng, text, language, polite=kind != "json"), ask.answer, kind, language, unseen)
