"""On an NVIDIA GPU: the command that a user types, and a right answer."""

from pathlib import Path

import pytest

from serving.machine.hardware import in_wsl
from tests import drawing
from tests.conftest import start_server
from tests.e2e.test_answers import ask


@pytest.mark.gpu
def test_the_demo_model_answers_on_the_gpu(tmp_path: Path) -> None:
    picture = drawing.encoded(drawing.circle(drawing.blank(1024, 768), 500, 400, 200, "red"))
    running = start_server(tmp_path, "--model", "demo", profile="auto")
    try:
        running.wait_until_ready()
        with running.openai() as client:
            assert "red circle" in ask(client, picture, question="What is in the picture?")
            assert "红色的圆形" in ask(client, picture, question="图片中有什么？")
        # Nothing has initialised CUDA before the engine: it is forked, and imports nothing again.
        log = (running.state_dir / str(running.port) / "server.log").read_text()
        assert in_wsl() or "Overriding VLLM_WORKER_MULTIPROC_METHOD" not in log
    finally:
        running.stop()
