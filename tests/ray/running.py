"""`python -m deploy.ray` as a user starts it, in a Ray of this machine alone, and what it takes to watch it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.ending import TIED
from serving.machine.port import free_port
from tests.conftest import START_S

# The real guard and supervisor before an application that answers as slowly as it is told to.
STAND_IN = f"command=[{sys.executable}, -m, tests.stand_in.supervised, '{{port}}', '30', '60']"
# Serve's controller needs some more than the servers themselves.
RAY_START_S = 2 * START_S


@dataclass
class Running:
    """A running `python -m deploy.ray`; `output` is what it has printed."""

    process: subprocess.Popen[bytes]
    url: str
    output: Path

    def replicas(self) -> list[psutil.Process]:
        """The processes of its replicas, the oldest first."""
        return sorted(_replicas(), key=lambda process: process.create_time())

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + RAY_START_S
        while not true():
            assert self.process.poll() is None, self.output.read_text()
            if time.monotonic() > deadline:
                pytest.fail(f"never: {what}\n{self.output.read_text()}")
            time.sleep(0.2)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=10, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def _replicas() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # While it answers, Ray adds the method to the title.
            title = process.cmdline()[:1] or [""]
            if title[0].startswith("ray::ServeReplica:default:onecard") and process.status() != "zombie":
                yield process


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Running]:
    """From its start to its end; ready in between."""
    with started(folder, *flags) as running:
        running.wait_until(lambda: b"Ready:" in running.output.read_bytes(), "ready")
        yield running


@contextlib.contextmanager
def started(folder: Path, *flags: str) -> Iterator[Running]:
    """From its start to its end, whatever becomes of it."""
    port = free_port()
    output = folder / "ray.out"
    words = [sys.executable, "-m", "deploy.ray", "--profile", "cpu", "--port", str(port), "--set", "cpus=0", *flags]
    environment = os.environ | {"ONECARD_STATE_DIR": str(folder / "state"), "RAY_TMPDIR": _short(folder)}
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [*TIED, *words], stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    running = Running(process, f"http://127.0.0.1:{port}", output)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(120)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _short(folder: Path) -> str:
    """Ray makes sockets below it, whose paths have 107 bytes at most."""
    import tempfile

    return tempfile.mkdtemp(prefix="ray", dir="/tmp" if len(str(folder)) > 40 else str(folder))
