"""The name that somebody meant. Needs nothing but Python, since setup asks it before anything is installed."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float) -> str | None:
    """The one of `known` that is most like it, at least by `cutoff` (0 to 1); letters and digits in another order are likelier
    than others: rtx3600 was rtx3060."""
    near = difflib.get_close_matches(word, known, n=5, cutoff=cutoff)
    return min(near, key=lambda each: sorted(each) != sorted(word), default=None)
