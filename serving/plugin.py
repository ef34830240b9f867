"""What vLLM loads in each of its processes (entry point `vllm.general_plugins`). Does nothing in a vLLM that onecard
did not start."""

import ctypes
import os
import signal

from serving.launch import ENVIRONMENT_KEY

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Registers our media connector, and ties this process's life to its parent's."""
    if ENVIRONMENT_KEY not in os.environ:
        return
    die_with_parent()
    from serving.media import register_connector

    register_connector()


def die_with_parent() -> None:
    """Whoever dies first, nothing is left: the kernel kills this process when its parent is gone (Linux prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
