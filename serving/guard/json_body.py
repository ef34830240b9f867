"""From a body's bytes to a JSON object that is safe to look at: bounded in depth, in nodes and in its numbers."""

import math
from typing import Any

from pydantic_core import from_json

from serving.guard.refusal import RefusalError

# A conversation that fills a long context as token ids stays below; 10^5 messages do not.
MAX_NODES = 65_536
_LARGEST_INT = 2**63 - 1


def read_object(body: bytes) -> dict[str, Any]:
    """The object. The parser itself refuses NaN, lone surrogates, what is not UTF-8, and more than 200 levels.

    Raises RefusalError.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RefusalError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise RefusalError("The body must be a JSON object.", code="invalid_json")
    _check(value)
    return value


def _check(value: dict[str, Any]) -> None:
    """No recursion: the depth is whoever sends' to choose."""
    rest: list[Any] = [value]
    nodes = 0
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            nodes += len(each)
            rest.extend(each.values())
        elif isinstance(each, list):
            nodes += len(each)
            rest.extend(each)
        elif (isinstance(each, float) and not math.isfinite(each)) or (
            isinstance(each, int) and not -_LARGEST_INT <= each <= _LARGEST_INT
        ):
            raise RefusalError("The body holds a number that is out of range.", code="invalid_json")
        if nodes > MAX_NODES:
            raise RefusalError(f"The body holds more than {MAX_NODES:,} values.", code="invalid_json")
