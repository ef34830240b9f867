"""What vLLM loads in each of its processes (entry point `vllm.general_plugins`). Does nothing in a vLLM that onecard
did not start."""

import ctypes
import multiprocessing
import os
import signal

from serving.cpu.waiting import nap_instead_of_spinning
from serving.inspecting import inspect_models_here
from serving.launch import ENVIRONMENT_KEY
from serving.one_tokenizer import read_tokenizers_once

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Registers our media connector, ties this process's life to its parent's, spends less on a start, and on a CPU leaves
    others some of it."""
    if ENVIRONMENT_KEY not in os.environ:
        return
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent else None)
    from vllm.platforms import current_platform

    from serving.media import register_connector

    register_connector()
    inspect_models_here()
    read_tokenizers_once()
    if current_platform.is_cpu():
        nap_instead_of_spinning()


def die_with_parent(parent: int | None) -> None:
    """Whoever dies first, nothing is left: the kernel kills this process when its parent is gone (Linux prctl(2)). It does not
    where the parent has died before it was asked to: `parent` is who that should be, where it is known."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
