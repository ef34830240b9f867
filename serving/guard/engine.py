"""vLLM as the guard sees it from outside its handlers: the only place that knows where vLLM keeps its engine client, and what
it notes about a request."""

import sys
from typing import Any, NamedTuple

from starlette.types import Scope


def is_dead(scope: Scope) -> bool:
    """Whether the engine process behind this application has died. False where there is none, as in tests.

    vLLM's own server also waits for `not is_running`, which comes only once the task that reads the answers has ended. New
    requests fail before that."""
    client: Any = getattr(getattr(scope.get("app"), "state", None), "engine_client", None)
    return client is not None and bool(client.errored)


def keep_environment() -> None:
    """Has vLLM cache its environment variables, as its engine process does by itself: for each token that it counts, this
    process reads one (`IterationStats`, v1/metrics/stats.py), which takes 2.6 µs, and 0.4 from the cache."""
    keep = getattr(sys.modules.get("vllm.envs"), "enable_envs_cache", None)
    if keep is not None:
        keep()


class Used(NamedTuple):
    """Tokens of a request's prompts, pictures among them, and of its answers."""

    prompt: int
    answer: int


def used_tokens(scope: Scope) -> Used | None:
    """vLLM's own count, which it notes for every answer, streamed or not; None until the answer is complete."""
    noted: Any = scope.get("state", {}).get("request_metadata")
    usage = getattr(noted, "final_usage_info", None)
    return None if usage is None else Used(int(usage.prompt_tokens), int(usage.completion_tokens or 0))
