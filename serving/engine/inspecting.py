"""vLLM learns what a model's class can do in the process that asks.

Where VLLM_CACHE_ROOT does not say it yet, vLLM asks another Python, which imports torch and vLLM anew: 10 s of a first start.
That keeps a class whose import initialises CUDA out of the process that forks the engine. But the API process imports the very
class a moment later, for the processor of pictures, and forks the engine after that: nothing is kept out.
"""

import inspect
from collections.abc import Callable
from typing import Any


def inspect_models_here() -> None:
    """In this process, from now on. A vLLM that asks in another way is left as it is."""
    from vllm.model_executor.models import registry

    ask = getattr(registry, "_run_in_subprocess", None)
    if ask is not None and list(inspect.signature(ask).parameters) == ["fn"]:
        registry._run_in_subprocess = _run_here


def _run_here(fn: Callable[[], Any]) -> Any:
    return fn()
