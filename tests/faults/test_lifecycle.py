"""Starting, dying and ending: what a user sees when things go wrong, and that nothing is left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.machine.port import free_port
from tests.conftest import ONECARD, Server, start_server
from tests.faults.conftest import known_good
from tests.faults.table import Line

# The promise for Ctrl-C, with room for a slow machine's own scheduling.
ENDS_WITHIN_S = 10


def descendants(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def api_process(server: Server) -> psutil.Process:
    (api,) = psutil.Process(server.process.pid).children()
    return api


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def shared_memory() -> set[str]:
    return {entry for entry in os.listdir("/dev/shm") if entry.startswith("psm_")}


def interrupted(server: Server, before: set[str]) -> None:
    """Ctrl-C: asserts that everything ends in time and that nothing is left."""
    processes = descendants(server)
    server.process.send_signal(signal.SIGINT)
    server.process.wait(ENDS_WITHIN_S)
    assert server.process.returncode == 0
    assert alive(processes) == []
    assert shared_memory() <= before
    assert not (server.state_dir / str(server.port) / "server.json").exists()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))


def test_while_loading_the_port_says_what_is_going_on(tmp_path: Path) -> None:
    before = shared_memory()
    starting = start_server(tmp_path)
    try:
        while True:
            with contextlib.suppress(httpx.ConnectError):
                reply = httpx.post(f"{starting.url}/v1/chat/completions", json={}, timeout=10, trust_env=False)
                break
            time.sleep(0.1)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
        assert "starting" in reply.json()["error"]["message"]
        assert starting.get("/health").status_code == 200
        assert starting.get("/ready").status_code == 503
        status = starting.get("/onecard/status").json()
        assert (status["state"], status["step"], status["plan"]["profile"]) == ("starting", "import", "cpu")
        interrupted(starting, before)
    finally:
        starting.stop()


def test_a_port_in_use_is_refused_before_anything_is_loaded(server: Server) -> None:
    done = subprocess.run(
        [*ONECARD, "serve", "--profile", "cpu", "--port", str(server.port)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 8
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting" not in done.stderr


@pytest.mark.long
def test_sigkill_of_the_server_process_is_followed_by_a_restart_on_the_same_port(server: Server) -> None:
    """In each run of the tests, the same of a server without an engine (tests/unit/test_supervisor.py), and of the engine."""
    api = api_process(server)
    old = descendants(server)
    statuses: list[int] = []
    lost: list[Exception] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            try:
                statuses.append(server.get("/v1/models").status_code)
            except httpx.ConnectError as error:  # refused: the port was closed
                lost.append(error)
            except httpx.HTTPError:
                pass  # cut off in the middle of an answer by the kill itself
            time.sleep(0.02)

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        api.kill()
        while server.is_ready():
            time.sleep(0.05)
        server.wait_until_ready()
    finally:
        done.set()
        poller.join()
    assert lost == []
    assert set(statuses) == {200, 503}
    assert alive(old) == []
    assert server.get("/onecard/status").json()["restarts"] >= 1


def engines(server: Server) -> list[psutil.Process]:
    """None while it starts."""
    found = []
    for each in descendants(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [each] if "EngineCore" in " ".join(each.cmdline()) else []
    return found


def engine(server: Server) -> psutil.Process:
    return engines(server)[0]


def question(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True} | more


def test_sigkill_of_the_engine_process_ends_streams_with_an_error_and_is_followed_by_a_restart(
    server: Server, table: list[Line]
) -> None:
    restarts = server.get("/onecard/status").json()["restarts"]
    url = f"{server.url}/v1/chat/completions"
    killed_soon = engine(server)
    long = question(stream=True, max_tokens=1000, n=4, temperature=1)
    with httpx.Client(timeout=60, trust_env=False) as http, http.stream("POST", url, json=long) as reply:
        lines = reply.iter_lines()
        next(lines)
        killed_soon.kill()
        killed = time.monotonic()
        events = [line for line in lines if line]
    assert "error" in events[-2]
    assert events[-1] == "data: [DONE]"
    refused = httpx.post(url, json=question(max_tokens=4), timeout=60, trust_env=False)
    assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
    table.append(Line("49", "SIGKILL of the engine: a new request", "503", 1000 * (time.monotonic() - killed)))
    server.wait_until_ready()
    table.append(Line("49", "SIGKILL of the engine: ready again", "200", 1000 * (time.monotonic() - killed)))
    assert server.get("/onecard/status").json()["restarts"] == restarts + 1
    assert "red" in known_good(server.port)


def test_an_engine_that_hangs_is_found_and_started_again(server: Server, table: list[Line]) -> None:
    """SIGSTOP under load: the process is there, the API answers, and not a token comes."""
    restarts = server.get("/onecard/status").json()["restarts"]
    stopped = engine(server)
    stopped.suspend()
    began = time.monotonic()
    answers: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):  # the kill breaks it off
            reply = httpx.post(f"{server.url}/v1/chat/completions", json=question(), timeout=120, trust_env=False)
            answers.append(reply.status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    while server.is_ready():
        time.sleep(0.1)
    table.append(Line("50", "SIGSTOP of the engine under load: /ready", "503", 1000 * (time.monotonic() - began)))
    server.wait_until_ready()
    table.append(Line("50", "SIGSTOP of the engine: ready again", "200", 1000 * (time.monotonic() - began)))
    asking.join()
    assert 200 not in answers
    assert not stopped.is_running()
    assert server.get("/onecard/status").json()["restarts"] == restarts + 1
    assert "red" in known_good(server.port)


def test_status_and_logs_of_the_running_server(server: Server) -> None:
    port = ["--port", str(server.port)]
    status = subprocess.run(
        [*ONECARD, "status", *port], capture_output=True, text=True, timeout=30, env=server.environment, check=True
    )
    assert status.stdout.startswith("ready: ")
    logs = subprocess.run(
        [*ONECARD, "logs", *port, "-n", "5"],
        capture_output=True,
        text=True,
        timeout=30,
        env=server.environment,
        check=True,
    )
    assert len(logs.stdout.splitlines()) == 5


@pytest.mark.ends_server
def test_a_killed_supervisor_leaves_no_process_and_a_free_port(server: Server) -> None:
    """The kernel ends what it has left; the next start on the same port clears what is left in files."""
    killed_alone(server)


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Server]:
    """A server that loads, with an engine that was forked from the API process, as on CUDA."""
    starting = start_server(tmp_path, environment={"PYTHONPATH": str(Path(__file__).parents[1] / "forking")})
    try:
        while not (there := engines(starting)):
            assert starting.process.poll() is None, starting.output.read_text()
            time.sleep(0.1)
        # The kernel makes it with addresses of its own for each program that is started; a fork has its parent's.
        auxv = {Path(f"/proc/{each.pid}/auxv").read_bytes() for each in (api_process(starting), there[0])}
        assert len(auxv) == 1, "the engine is not a fork"
        yield starting
    finally:
        starting.stop()


def killed_alone(server: Server) -> None:
    """SIGKILL of the supervisor: asserts that nothing is left."""
    processes = descendants(server)
    server.process.kill()
    server.process.wait()
    _, left = psutil.wait_procs(processes, timeout=ENDS_WITHIN_S)
    left = alive(left)
    for each in left:
        each.kill()
    assert left == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))


def test_a_killed_supervisor_leaves_no_forked_engine_that_loads(forking: Server) -> None:
    killed_alone(forking)


@pytest.mark.long
def test_a_killed_server_process_or_supervisor_leaves_no_forked_engine_that_serves(forking: Server) -> None:
    forking.wait_until_ready()
    old = descendants(forking)
    api_process(forking).kill()
    _, left = psutil.wait_procs(old, timeout=ENDS_WITHIN_S)
    assert alive(left) == []
    forking.wait_until_ready()
    assert "red" in known_good(forking.port)
    killed_alone(forking)


def test_stop_without_a_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ONECARD, "stop", "--port", str(free_port())],
        capture_output=True, text=True, timeout=30, env=os.environ | {"ONECARD_STATE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 11
    assert "No onecard runs" in done.stderr
