"""The server process before it serves."""

import gc
import socket
from pathlib import Path

import pytest

from serving.errors import UsageError
from serving.server import _serve
from tests.unit.test_engine_args import launch_of


@pytest.mark.filterwarnings("ignore")
def test_vllm_is_loaded_without_a_look_for_garbage_and_never_looked_through_later(tmp_path: Path) -> None:
    looked: list[str] = []

    def note(phase: str, _about: dict[str, int]) -> None:
        if not gc.get_freeze_count():
            looked.append(phase)

    launch = launch_of(tmp_path, "--max-model-length", "8192")
    gc.unfreeze()
    gc.callbacks.append(note)
    try:
        # vLLM's parser knows no such argument: by then all is loaded, and nothing serves yet.
        with socket.socket() as unused, pytest.raises(UsageError, match="no argument --max-model-length"):
            _serve(launch, unused)
        assert looked == []
        assert gc.get_freeze_count() > 100_000
        assert gc.isenabled()
    finally:
        gc.callbacks.remove(note)
        gc.unfreeze()
