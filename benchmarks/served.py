"""An `onecard serve` for the length of a block, and what it says of itself: for measurements of one server, started as a user
starts it. servers.py starts contenders."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.ending import TIED
from serving.errors import NotRunningError
from serving.machine.running import fetch_status

LIMIT_S = 900.0


@dataclass(frozen=True)
class Served:
    """A server that is ready. `ready_s` is what its start took; `pid` is its supervisor's."""

    port: int
    ready_s: float
    pid: int


@contextlib.contextmanager
def serving(arguments: Sequence[str], folder: Path) -> Iterator[Served]:
    """`onecard serve` with these arguments on a free port, ready. What it prints goes to `folder`. Raises RuntimeError with
    that when it does not become ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    began = time.monotonic()
    output = folder / "serve.out"
    command = [*TIED, sys.executable, "-m", "serving", "serve", "--port", str(port), *arguments]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | {"ONECARD_EXPORTER_PORT": "0"}
        )
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() - began > LIMIT_S:
                raise RuntimeError(f"onecard serve was not ready:\n{output.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield Served(port, time.monotonic() - began, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(port: int, what: str, holds: Callable[[dict[str, Any]], bool], limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Asks for `/onecard/status` until it is so, and returns it. A question that is lost with the server that took it is
    asked again. Raises RuntimeError when `what` has not come in time."""
    ends = time.monotonic() + limit_s
    status: dict[str, Any] = {}
    while time.monotonic() < ends:
        with contextlib.suppress(NotRunningError):
            status = fetch_status(port)
            if holds(status):
                return status
        time.sleep(0.2)
    raise RuntimeError(f"{what}: not within {limit_s:.0f} s; the last status was {status}")


def key_header() -> dict[str, str]:
    """For a server that was started with ONECARD_API_KEY."""
    key = os.environ.get("ONECARD_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _is_ready(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=10, trust_env=False).status_code == 200
    return False
