"""What goes wrong with a Ray cluster, and our figures beside Ray's."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.ending import TIED
from deploy.ray.cluster import head_answers
from deploy.ray.metrics import Bridge
from serving.errors import HardwareError, NotRunningError, OnecardError
from serving.machine.port import free_port
from tests.listening import listening
from tests.ray.running import RAY_START_S, STAND_IN, serving, started

pytest.importorskip("ray", reason="Ray is not installed: pip install 'onecard[ray]'")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

_FIGURES = """\
# HELP onecard_requests_total Requests.
# TYPE onecard_requests_total counter
onecard_requests_total{route="/v1/chat/completions"} 3.0
# HELP vllm:num_requests_running Running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running 1.0
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A Ray head of its own: its address, and the process that is the head."""
    port = free_port()
    words = [*TIED, sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
             "--node-ip-address=127.0.0.1", "--include-dashboard=false", "--num-cpus=4",
             f"--ray-client-server-port={free_port()}"]  # fmt: skip
    with (folder / "head.out").open("wb") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while not (
            heads := [each for each in _children(process.pid) if "gcs_server" in each.name()]
        ) or not head_answers(f"127.0.0.1:{port}"):
            assert process.poll() is None, (folder / "head.out").read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        yield f"127.0.0.1:{port}", heads[0]
    finally:
        every = _children(process.pid)
        for each in every:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_a_cluster_that_loses_its_head_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this cluster alone
    with cluster(tmp_path) as (address, head), serving(tmp_path, "--address", address, "--set", STAND_IN) as running:
        assert running.is_ready()
        head.kill()
        assert running.process.wait(RAY_START_S) == NotRunningError.exit_code
        assert "has lost its head" in running.output.read_text()
        assert "Traceback" not in running.output.read_text()


def test_more_replicas_than_gpus_start_nothing(tmp_path: Path) -> None:
    flags = ("--min-replicas", "2", "--set", "gpus=64", "--set", STAND_IN)
    with started(tmp_path, *flags) as running:
        assert running.process.wait(RAY_START_S) == HardwareError.exit_code
        assert "2 replicas of 64 GPU need 128" in running.output.read_text()


def test_a_server_that_refuses_to_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    refusing = f"command=[{sys.executable}, -c, 'import sys; sys.exit(\"onecard: the model is of clay\")']"
    with started(tmp_path, "--set", refusing) as running:
        assert running.process.wait(RAY_START_S) == OnecardError.exit_code
        assert "the model is of clay" in running.output.read_text()


def test_our_figures_stand_beside_rays() -> None:
    import ray

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse(_FIGURES)

    async def told(port: int) -> str:
        node = ray.nodes()[0]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        bridge = Bridge(f"http://127.0.0.1:{port}", 0.5, "a1")
        bridge.start()
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            while "onecard_" not in (text := (await client.get(url)).text):
                await asyncio.sleep(0.5)
        bridge.stop()
        return text

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with listening(Starlette(routes=[Route("/metrics", answer)])) as port:
            lines = [line for line in asyncio.run(told(port)).splitlines() if line.startswith("ray_onecard_")]
    finally:
        ray.shutdown()
    (line,) = lines  # vLLM's own are not ours to hand on
    assert line.startswith("ray_onecard_requests_total{")
    assert 'replica="a1"' in line
    assert line.endswith(" 3.0")
