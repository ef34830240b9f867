"""What is known of one request, for whoever measures and logs it from outside (guard/measure.py, request_log.py).

The notes travel in the ASGI scope: layers copy the scope, and all copies share them. A layer writes what it alone
knows (the key's name, the pictures).
"""

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

SCOPE_KEY = "onecard.request"
# vLLM writes it near an answer's end, compact; inside a text the quotes would be escaped.
_FINISH = re.compile(rb'"finish_reason":\s*"(\w+)"')


@dataclass
class RequestNotes:
    """`key` is the name of the API key, never the key itself; `images` counts the pictures asked about."""

    request_id: str
    key: str = "none"
    images: int = 0
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    finish: str | None = None

    def see(self, answer: bytes) -> None:
        """Notes what a piece of an answer says of itself: the end of a JSON body, or one event of a stream."""
        if b'"finish_reason":"' in answer and (finish := _FINISH.search(answer)):
            self.finish = finish[1].decode()


def attach(scope: MutableMapping[str, Any], notes: RequestNotes) -> MutableMapping[str, Any]:
    """The scope with the notes in it."""
    return {**scope, SCOPE_KEY: notes}


def notes_of(scope: MutableMapping[str, Any]) -> RequestNotes:
    """The notes of this request; where nothing measures, some that nobody reads."""
    notes = scope.get(SCOPE_KEY)
    return notes if isinstance(notes, RequestNotes) else RequestNotes("")
