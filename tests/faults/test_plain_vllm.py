"""The same bad requests to plain vLLM, for the other column of docs/faults.md. Asserts nothing about vLLM."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving.hub import resolve_model
from tests.conftest import START_S, free_port
from tests.faults.cases import CASES, PATIENCE_S
from tests.faults.conftest import known_good
from tests.faults.table import Line, write_plain, writing

pytestmark = pytest.mark.long


@pytest.fixture
def plain_port(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    arguments = ["--model", str(resolve_model("demo").download()), "--served-model-name", "onecard-demo", "demo"]
    arguments += ["--port", str(port), "--host", "127.0.0.1", "--max-model-len", "4096", "--enforce-eager"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONECARD_")}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "vllm.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    family: list[psutil.Process] = []
    try:
        for _ in range(START_S):
            assert process.poll() is None, (tmp_path / "vllm.log").read_text()[-3000:]
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


@pytest.mark.timeout(1800)
def test_what_plain_vllm_answers(plain_port: int) -> None:
    cases = sorted(CASES, key=lambda case: case.slow)
    lines = []
    with ThreadPoolExecutor(8) as pool:
        slow = {case.name: pool.submit(case.send, plain_port) for case in cases if case.slow}
        for case in cases:
            answer = slow[case.name].result() if case.slow else case.send(plain_port)
            said = str(answer.status) if answer.status else f"no answer in {PATIENCE_S:.0f} s"
            lines.append(Line(case.row, case.what, said, 1000 * answer.seconds))
    assert known_good(plain_port)
    assert [line.what for line in lines] == [case.what for case in cases]
    if writing():
        write_plain(lines)
