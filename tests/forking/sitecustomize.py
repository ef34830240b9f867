"""Python runs this at the start of every process of the test's server: vLLM forks its engine and workers, as on CUDA, where
on a CPU it insists on starting each anew."""

import multiprocessing
from multiprocessing.context import BaseContext

get_context = multiprocessing.get_context


def _forking(method: str | None = None) -> BaseContext:
    return get_context("fork" if method == "spawn" else method)


multiprocessing.get_context = _forking  # type: ignore[assignment]
