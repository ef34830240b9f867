"""vLLM as anybody runs it, to be compared with."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.ending import TIED
from serving.machine.port import free_port
from tests.conftest import START_S


@contextmanager
def plain_vllm(model: Path, folder: Path, *names: str) -> Iterator[int]:
    """Serves the model under these names, without our arguments and plug-ins and from a folder from which our code is not
    imported; the port. Its log is in `folder`."""
    port = free_port()
    arguments = ["--model", str(model), "--served-model-name", *names, "--port", str(port), "--host", "127.0.0.1"]
    arguments += ["--max-model-len", "4096", "--enforce-eager"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ONECARD_", "PYTHONPATH"))}
    own = {"VLLM_PLUGINS": "", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*TIED, sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments]
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=kept | own, cwd=folder)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert process.poll() is None, (folder / "vllm.log").read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(1)
        family = psutil.Process(process.pid).children(recursive=True)
        yield port
    finally:
        process.kill()
        process.wait()
        for each in family:
            each.kill()
