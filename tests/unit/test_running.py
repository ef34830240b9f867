"""The running server seen from outside: status, stop and logs, against real ports and real processes; what it keeps on disk."""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from serving.errors import NotRunningError, OnecardError
from serving.guard.keys import KeyRing
from serving.ipc.launch import Launch, child_environment
from serving.ipc.settings import GuardSettings
from serving.ipc.status import status_body
from serving.machine import processes, running
from serving.machine.orders import send_to_sleep, wake_up
from serving.machine.port import free_port
from serving.machine.running import describe_status, fetch_status, log_lines, stop_server
from serving.machine.state_dir import ipc_dir, make_run_dir, read_json, run_dir, state_dir, write_json
from serving.planning.plan import MemoryMib, PlannedGpu
from serving.prepare import prepare
from serving.supervisor.waiting import WaitingRoom
from tests.listening import listening


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of each test; no key, and a proxy that would swallow what is meant for loopback."""
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("ONECARD_API_KEY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    plan = prepare("cpu", "demo", gpu_memory_mib=8192).plan
    tmp = tmp_path_factory.mktemp("launch")
    return Launch(plan=plan, model_folder=tmp, default_max_tokens=256, host="127.0.0.1", port=8123, run_dir=tmp)


def waiting_room(launch: Launch, key: str = "") -> WaitingRoom:
    """What the supervisor answers while it starts a server."""
    status = status_body(launch, state="starting", step="weights", seconds_left=12.3)
    file = launch.run_dir / "keys"
    file.write_text(key)
    ring = KeyRing(file if key else None)
    return WaitingRoom(lambda: status, lambda: "loading the weights", ring, GuardSettings())


# --- status ---


def test_the_status_of_a_starting_server(launch: Launch) -> None:
    with listening(waiting_room(launch)) as port:
        status = fetch_status(port)
    assert (status["state"], status["plan"]["profile"]) == ("starting", "cpu")
    first, second, third = describe_status(status).splitlines()
    assert first == "starting: http://127.0.0.1:8123/v1, model onecard-demo, profile cpu"
    assert second == "step: weights, about 12 s left"
    assert third == "requests: 0 running, 0 waiting; restarts: 0"


def test_asking_for_the_status_reads_no_certificates(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter asks every second, on loopback without TLS: the certificates alone were 3% of a core."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the certificates are read")

    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", load)
    with listening(waiting_room(launch)) as port:
        assert fetch_status(port)["state"] == "starting"


def test_the_status_of_a_ready_server_has_no_step(launch: Launch) -> None:
    text = describe_status(status_body(launch, state="ready", queue={"running": 2, "waiting": 1}))
    assert text.splitlines()[1] == "requests: 2 running, 1 waiting; restarts: 0"


def test_the_status_says_what_was_given_up(launch: Launch) -> None:
    smaller = launch.plan.model_copy(update={"given_up": ("8,300 MiB of the card, which other programs hold now",)})
    text = describe_status(status_body(launch.model_copy(update={"plan": smaller}), state="ready"))
    assert text.endswith("given up so that it fits: 8,300 MiB of the card, which other programs hold now")


def test_the_status_of_a_keyed_server_needs_its_key(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(waiting_room(launch, "a:secret")) as port:
        with pytest.raises(OnecardError, match="set ONECARD_API_KEY"):
            fetch_status(port)
        monkeypatch.setenv("ONECARD_API_KEY", "secret")
        assert fetch_status(port)["state"] == "starting"


def test_nobody_on_the_port() -> None:
    with pytest.raises(NotRunningError, match="onecard serve") as caught:
        fetch_status(free_port())
    assert caught.value.exit_code == 11


@pytest.mark.parametrize(
    "answer",
    [
        Response("no such page", 404),
        Response(status_code=302, headers={"location": "/login"}),
        HTMLResponse("<html>another program</html>"),
        JSONResponse([]),
        JSONResponse([1, 2]),
        JSONResponse({"state": "fine"}),
        JSONResponse("fine"),
    ],
)
def test_another_program_on_the_port_is_not_taken_for_onecard(answer: Response) -> None:
    with listening(answer) as port, pytest.raises(NotRunningError, match=f"port {port}"):
        fetch_status(port)


# --- stop ---


@contextlib.contextmanager
def process(folder: Path, *words: str, setup: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A real process whose command line is that of a script in `folder` with those words; its number is written down
    as that of the server on port 8000, as the supervisor does."""
    script = folder / words[0]
    # It says that it runs only when its signal handlers are in place.
    script.write_text(f"import signal, sys, time\n{setup}\nprint(1, flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, str(script), *words[1:]], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        write_json(make_run_dir(8000) / "server.json", {"pid": started.pid})
        try:
            yield started
        finally:
            started.kill()


def test_a_server_on_another_address_than_loopbacks_first_is_found_by_its_own_word(
    folder: Path, launch: Launch
) -> None:
    elsewhere = "127.0.0.2"
    with (
        process(folder, "onecard", "serve") as server,
        listening(waiting_room(launch), host=elsewhere) as port,
    ):
        with pytest.raises(NotRunningError):
            fetch_status(port)
        write_json(make_run_dir(port) / "server.json", {"pid": server.pid, "url": f"http://{elsewhere}:{port}"})
        assert fetch_status(port)["state"] == "starting"


def test_stop_ends_the_server_and_waits_for_it(folder: Path) -> None:
    slow = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit()))"
    with process(folder, "onecard", "serve", setup=slow) as server:
        assert stop_server(8000) >= 0.2
        assert server.poll() is not None


def test_stop_says_how_to_end_what_does_not_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_CLEARING_S", 0.3 - processes.STOP_GRACE_S)  # a wait of 0.3 s
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with (
        process(folder, "onecard", "serve", setup=deaf) as server,
        pytest.raises(OnecardError, match=f"kill -9 {server.pid}"),
    ):
        stop_server(8000)


@pytest.mark.parametrize("words", [("other.py",), ("other.py", "serve"), ("onecard", "ask", "x.png", "?")])
def test_a_process_that_has_come_by_the_number_is_left_alone(folder: Path, words: tuple[str, ...]) -> None:
    """After a SIGKILL of the supervisor its number stays written down, and the kernel gives it to another process."""
    with process(folder, *words) as innocent:
        with pytest.raises(NotRunningError, match="No onecard runs on port 8000"):
            stop_server(8000)
        time.sleep(0.1)
        assert innocent.poll() is None


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"pid": "1"}', '{"pid": null}', '{"pid": -1}', '{"pid": 4194305}']
)
def test_stop_without_a_server_is_refused(content: str) -> None:
    (make_run_dir(8000) / "server.json").write_text(content)
    with pytest.raises(NotRunningError, match="No onecard runs on port 8000"):
        stop_server(8000)


def test_a_server_that_hangs_is_not_said_to_be_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        with pytest.raises(NotRunningError, match=f"listens on port {port} does not answer") as refused:
            fetch_status(port, timeout_s=0.2)
    assert "onecard serve" not in str(refused.value)


@pytest.mark.parametrize("order", [stop_server, send_to_sleep, wake_up])
def test_a_server_that_keeps_its_state_elsewhere_is_not_said_to_be_none(
    launch: Launch, order: Callable[[int], object]
) -> None:
    with listening(waiting_room(launch)) as port, pytest.raises(OnecardError, match="Set ONECARD_STATE_DIR") as refused:
        order(port)
    assert refused.value.exit_code == 1  # 11 is that none is there


@pytest.mark.parametrize(
    ("said_by_the_kernel", "error", "says"),
    [
        (ProcessLookupError, NotRunningError, "No onecard runs on port 8000"),
        (PermissionError, OnecardError, "runs as another user"),
    ],
)
@pytest.mark.parametrize("order", [stop_server, send_to_sleep, wake_up])
def test_a_server_that_cannot_be_signalled_is_said_so(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: Callable[[int], object],
    said_by_the_kernel: type[OSError],
    error: type[OnecardError],
    says: str,
) -> None:
    """It ended a moment ago, or is another user's."""

    def kill(_pid: int, number: int) -> None:
        if number:  # 0 asks whether the process is there
            raise said_by_the_kernel

    with process(folder, "onecard", "serve"):
        monkeypatch.setattr("os.kill", kill)
        with pytest.raises(error, match=says):
            order(8000)
        monkeypatch.undo()


# --- logs ---


def test_a_log_that_cannot_be_read_is_said_so() -> None:
    (make_run_dir(8000) / "server.log").mkdir()
    with pytest.raises(NotRunningError, match=r"server\.log cannot be read: Is a directory"):
        list(log_lines(8000, 1, follow=False))


def test_the_last_lines_of_the_log() -> None:
    (make_run_dir(8000) / "server.log").write_bytes(b"one\ntwo\xff\nthree\n")
    assert list(log_lines(8000, 2, follow=False)) == ["two\ufffd\n", "three\n"]
    assert len(list(log_lines(8000, 99, follow=False))) == 3
    assert list(log_lines(8000, 0, follow=False)) == []
    with pytest.raises(NotRunningError, match="no log for port 8001"):
        list(log_lines(8001, 2, follow=False))


def test_following_goes_on_with_what_is_added() -> None:
    file = make_run_dir(8000) / "server.log"
    file.write_text("old\n")

    def add() -> None:
        time.sleep(0.1)
        with file.open("a") as stream:
            stream.write("new\nnewer\n")

    writer = threading.Thread(target=add)
    writer.start()
    assert list(itertools.islice(log_lines(8000, 1, follow=True), 3)) == ["old\n", "new\n", "newer\n"]
    writer.join()


def test_following_loses_no_last_line_of_a_full_log(monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_run_dir(8000) / "server.log"
    file.write_text("old\n")
    look = running._goes_on

    def become_full(*arguments: Any) -> bool:
        monkeypatch.setattr(running, "_goes_on", look)
        with file.open("a") as stream:
            stream.write("last\n")
        file.replace(file.with_suffix(".log.1"))
        file.write_text("new\n")
        return look(*arguments)

    monkeypatch.setattr(running, "_goes_on", become_full)
    assert list(itertools.islice(log_lines(8000, 1, follow=True), 3)) == ["old\n", "last\n", "new\n"]


# --- what is kept, and where ---


def test_the_state_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert run_dir(8000) == folder / "8000"
    monkeypatch.delenv("ONECARD_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert state_dir() == Path("/xdg/onecard")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert state_dir() == Path("/home/someone/.local/state/onecard")


def test_a_state_folder_that_cannot_be_made_is_refused_with_the_way_out(folder: Path) -> None:
    (folder / "8000").write_text("a file where the folder should be")
    with pytest.raises(OnecardError, match="Set ONECARD_STATE_DIR"):
        make_run_dir(8000)


def test_the_run_folder_is_its_owners_alone() -> None:
    assert make_run_dir(8000).stat().st_mode & 0o777 == 0o700
    assert list(make_run_dir(8000).iterdir()) == []


def test_the_sockets_folder_is_short_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with ipc_dir(port) as folder:
        (folder / "left-behind").write_text("x")
        assert folder.stat().st_mode & 0o777 == 0o700
        # A socket's path is 107 bytes at most, and vLLM's own names are a UUID.
        assert len(str(folder)) + 40 < 107
    assert not folder.exists()
    folder.mkdir()
    (folder / "of-a-killed-supervisor").write_text("x")
    with ipc_dir(port) as again:
        assert list(again.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with pytest.raises(OnecardError, match="set TMPDIR"), ipc_dir(port):
        pass


def test_a_temporary_folder_too_long_for_sockets_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ("x" * 90)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    with pytest.raises(OnecardError, match="set TMPDIR to a shorter folder"), ipc_dir(free_port()):
        pass


def test_a_reader_sees_the_old_file_or_the_new_one_and_never_half(folder: Path) -> None:
    file = folder / "facts.json"
    write_json(file, {"number": 0, "padding": "x" * 100_000})
    done = threading.Event()

    def write() -> None:
        for number in itertools.count(1):
            write_json(file, {"number": number, "padding": "x" * 100_000})
            if done.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    seen = [read_json(file) for _ in range(200)]
    done.set()
    writer.join()
    assert None not in seen
    numbers = [each["number"] for each in seen]
    assert numbers == sorted(numbers)


# --- what the server process is given ---


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123"),
        ("0.0.0.0", "http://127.0.0.1:8123"),
        ("::", "http://[::1]:8123"),
        ("::1", "http://[::1]:8123"),
        ("localhost", "http://localhost:8123"),
        ("192.168.1.5", "http://192.168.1.5:8123"),
    ],
)
def test_the_url_that_is_printed_can_be_opened(launch: Launch, host: str, url: str) -> None:
    assert launch.model_copy(update={"host": host}).url == url


def test_the_launch_file_is_read_back_as_it_was_and_is_its_owners_alone(launch: Launch) -> None:
    file = launch.write()
    assert Launch.model_validate_json(file.read_text()) == launch
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_server_process_speaks_to_nobody_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    environment = child_environment(folder / "launch.json", folder, has_nvcc=False)
    assert environment["PATH"] == os.environ["PATH"]
    off = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    assert [environment[name] for name in off] == ["1"] * 4
    # FlashInfer's sampler needs a compiler; what the user has set stays.
    assert environment["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in child_environment(folder / "x", folder, has_nvcc=True)
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    assert child_environment(folder / "x", folder, has_nvcc=False)["VLLM_USE_FLASHINFER_SAMPLER"] == "1"


def test_the_server_process_reads_utf_8_in_every_locale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    (folder / "template").write_text("→", encoding="utf-8")
    command = [sys.executable, "-c", f"print(len(open({str(folder / 'template')!r}).read()))"]
    for environment, code in ((None, 1), (child_environment(folder, folder, has_nvcc=True), 0)):
        assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=60).returncode == code


def test_torchs_allocator_is_held_to_the_plan(launch: Launch, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert launch.allocator_share is None  # on a CPU
    memory = MemoryMib.nothing_but(weights=3000, context=740, kv_cache=2000, headroom=260)
    gpu = PlannedGpu(name="NVIDIA H200", total_mib=8188, usable_mib=8000, present_mib=145200)
    plan = launch.plan.model_copy(update={"gpu": gpu, "memory_mib": memory, "predicted": True})
    share = launch.model_copy(update={"plan": plan}).allocator_share
    assert share == pytest.approx(0.05)
    assert launch.model_copy(update={"plan": plan.model_copy(update={"predicted": False})}).allocator_share is None
    told = child_environment(folder / "x", folder, has_nvcc=True, allocator_share=share)
    assert told["PYTORCH_ALLOC_CONF"] == "per_process_memory_fraction:0.05000"
    assert "PYTORCH_ALLOC_CONF" not in child_environment(folder / "x", folder, has_nvcc=True)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # what the user has set stays
    assert "PYTORCH_ALLOC_CONF" not in child_environment(folder / "x", folder, has_nvcc=True, allocator_share=share)


def test_an_eager_model_on_a_cpu_has_nothing_compiled(launch: Launch, folder: Path) -> None:
    assert not launch.compiles
    assert child_environment(folder / "x", folder, has_nvcc=True, compiles=False)["TORCH_COMPILE_DISABLE"] == "1"
    plan = launch.plan.model_copy(update={"engine_args": launch.plan.engine_args | {"enforce_eager": False}})
    assert launch.model_copy(update={"plan": plan}).compiles
    assert "TORCH_COMPILE_DISABLE" not in child_environment(folder / "x", folder, has_nvcc=True)
