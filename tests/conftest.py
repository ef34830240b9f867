"""One real server for the whole session: `onecard serve` as a user starts it, on the CPU, with the demo model."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI

from benchmarks.ending import TIED
from serving.machine.port import free_port

# Longer than any start on two cores; a test never asserts a time.
START_S = 300
ONECARD = [sys.executable, "-m", "serving"]


def pytest_configure() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and every process of theirs inherits it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that end the shared server come last."""
    items.sort(key=lambda item: item.get_closest_marker("ends_server") is not None)


@dataclass
class Server:
    """A running `onecard serve`; `output` is what it has printed."""

    port: int
    state_dir: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find this server's state."""
        return os.environ | {"ONECARD_STATE_DIR": str(self.state_dir)}

    def openai(self) -> OpenAI:
        client = DefaultHttpxClient(trust_env=False)
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", http_client=client, max_retries=0)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, trust_env=False)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"onecard serve ended:\n{self.output.read_text()}"
            if self.is_ready():
                return
            time.sleep(0.5)
        pytest.fail(f"not ready after {START_S} s:\n{self.output.read_text()}")

    def is_ready(self) -> bool:
        try:
            return self.get("/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)


def start_server(
    folder: Path,
    *arguments: str,
    profile: str = "cpu",
    environment: dict[str, str] | None = None,
    before: Callable[[Path], None] | None = None,
    port: int = 0,
) -> Server:
    """Starts `onecard serve` on that port or a free one, with its state under `folder`; does not wait. `before` is called
    with the folder that the server will run in."""
    port = port or free_port()
    if before:
        (folder / "state" / str(port)).mkdir(parents=True)
        before(folder / "state" / str(port))
    output = folder / "serve.out"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [*TIED, *ONECARD, "serve", "--profile", profile, "--port", str(port), *arguments],
            stdout=stream,
            stderr=subprocess.STDOUT,
            # Port 0: without an exporter of its own. The tests of one start theirs.
            env=os.environ
            | {"ONECARD_STATE_DIR": str(folder / "state"), "ONECARD_EXPORTER_PORT": "0"}
            | (environment or {}),
            start_new_session=True,
        )
    return Server(port, folder / "state", process, output)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shared server; every Python process of it notes the connections that it opens (tests/watch)."""
    folder = tmp_path_factory.mktemp("server")
    watch = {
        "PYTHONPATH": str(Path(__file__).parent / "watch"),
        "ONECARD_TEST_CONNECTIONS": str(folder / "connections.txt"),
    }
    # A hang is found sooner than a user's server would say it, so that the tests need not wait.
    running = start_server(folder, "--hang-seconds", "15", environment=watch)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[OpenAI]:
    with server.openai() as openai:
        yield openai
