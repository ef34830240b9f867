"""vLLM's engine client as the guard sees it: the one place that knows where vLLM keeps it."""

from typing import Any

from starlette.types import Scope


def is_dead(scope: Scope) -> bool:
    """Whether the engine process behind this application has died. False where there is none, as in tests."""
    client: Any = getattr(getattr(scope.get("app"), "state", None), "engine_client", None)
    return client is not None and bool(client.errored) and not bool(client.is_running)
