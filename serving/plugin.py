"""What vLLM loads of ours in each of its processes (entry point `vllm.general_plugins`). Does nothing in a vLLM that onecard
did not start."""

import ctypes
import json
import multiprocessing
import os
import signal
from multiprocessing import util

from serving.cpu.waiting import nap_instead_of_spinning
from serving.engine.inspecting import inspect_models_here
from serving.engine.one_tokenizer import read_tokenizers_once
from serving.ipc.launch import ENVIRONMENT_KEY, current_launch

_PR_SET_PDEATHSIG = 1


def register() -> None:
    """Registers our media connector, ties this process's life to its parent's, makes the start cheaper, and on a CPU keeps
    waiting threads from spinning."""
    if ENVIRONMENT_KEY not in os.environ:
        return
    _die_with_parent_process()
    # On CUDA vLLM forks the engine from the API process, and workers from the engine. Linux clears the death signal in a forked
    # child, and vLLM does not load plugins again there.
    util.register_after_fork(register, lambda _: _die_with_parent_process())
    from vllm.platforms import current_platform

    from serving.media import register_connector

    register_connector()
    inspect_models_here()
    read_tokenizers_once()
    if multiprocessing.parent_process() is None:  # the API process, which prepares pictures
        _cut_pictures_ourselves()
    if current_platform.is_cpu():
        nap_instead_of_spinning()


def _cut_pictures_ourselves() -> None:
    from serving.engine.processor import cut_pictures_ourselves
    from serving.media import planned_grid

    if (launch := current_launch()) and planned_grid(launch):
        config = json.loads((launch.model_folder / "config.json").read_text(encoding="utf-8"))
        for architecture in config.get("architectures") or ():
            cut_pictures_ourselves(architecture)


def _die_with_parent_process() -> None:
    parent = multiprocessing.parent_process()
    die_with_parent(parent.pid if parent else None)


def die_with_parent(parent: int | None) -> None:
    """Has the kernel kill this process when its parent dies (Linux prctl(2)). If `parent`, the expected parent, has died
    already, this process kills itself. To the kernel, the parent is the thread that started this process; in vLLM that is
    the main thread."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
