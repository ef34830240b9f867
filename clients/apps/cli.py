"""What `onecard product`, `exercises` and `support` print."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from clients.apps import tickets
from clients.apps.book import as_json, pages_of, title_of
from clients.apps.products import product
from clients.apps.prompts import Language, language_of
from clients.apps.textbook import exercises, markdown
from clients.client import Client
from clients.waiting import Waiting


def print_product(
    pictures: Sequence[str], url: str, name: str, category: str, language: Language | None, length: int, as_object: bool
) -> None:
    with Client(url) as client, Waiting(client.connection):
        copy = client.do(product(name, category, list(pictures), language=language, length=length))
    _print({**copy.model_dump(), "text": copy.text, "characters": len(copy.text)} if as_object else copy.text)


def print_exercises(
    names: Sequence[str], url: str, count: int, topic: str, language: Language | None, as_object: bool
) -> None:
    """Page by page, as they are answered."""
    with Client(url) as client:
        for page in pages_of(names):
            with Waiting(client.connection):
                found = client.do(exercises(page, count=count, topic=topic, language=language))
            title = title_of(page, language_of(found.exercises[0].question))
            _print(as_json(page, found) if as_object else markdown(title, found))


def print_support(
    screenshots: Sequence[str], url: str, message: str, language: Language | None, as_object: bool
) -> None:
    with Client(url) as client, Waiting(client.connection):
        ticket = client.do(tickets.support(list(screenshots), message, language=language))
    _print(ticket.model_dump() if as_object else tickets.as_text(ticket))


def _print(shown: str | dict[str, Any]) -> None:
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()
