"""What the layers know about a request and tell each other: whose it is, and what serving it will cost."""

from dataclasses import dataclass

from starlette.types import Scope

from serving.guard.admission import Cost

SCOPE_KEY = "onecard"


@dataclass
class Facts:
    """`key` is the name of the API key, empty where none is configured. `cost`, and the `digest` of what the client sent, are
    known once the body has been read. `alone`: nothing else may run beside it. `given_away`: another process answers it."""

    key: str = ""
    cost: Cost | None = None
    digest: bytes | None = None
    alone: bool = False
    given_away: bool = False


def facts(scope: Scope) -> Facts:
    """The facts of the request; the same object for all layers, however they copy the scope."""
    found = scope.setdefault(SCOPE_KEY, Facts())
    return found if isinstance(found, Facts) else Facts()
