"""vLLM as the guard sees it from outside its handlers: the one place that knows where vLLM keeps its engine's client, and what
it notes of a request for whoever stands before it."""

import sys
from typing import Any, NamedTuple

from starlette.types import Scope


def is_dead(scope: Scope) -> bool:
    """Whether the engine process behind this application has died. False where there is none, as in tests.

    vLLM's own server asks for `not is_running` too, which is only so once the task that reads the answers has ended. Until
    then new requests fail already."""
    client: Any = getattr(getattr(scope.get("app"), "state", None), "engine_client", None)
    return client is not None and bool(client.errored)


def keep_environment() -> None:
    """From now on vLLM's variables are what they are: here it reads the environment for each token that it counts
    (`IterationStats`, v1/metrics/stats.py), which takes 2.6 µs and kept 0.4. Its engine process does the same itself."""
    keep = getattr(sys.modules.get("vllm.envs"), "enable_envs_cache", None)
    if keep is not None:
        keep()


class Used(NamedTuple):
    """Tokens of a request's prompts, pictures among them, and of its answers."""

    prompt: int
    answer: int


def used_tokens(scope: Scope) -> Used | None:
    """By vLLM's own count, which it notes of every answer, streamed or not; None before the answer is whole."""
    noted: Any = scope.get("state", {}).get("request_metadata")
    usage = getattr(noted, "final_usage_info", None)
    return None if usage is None else Used(int(usage.prompt_tokens), int(usage.completion_tokens or 0))
