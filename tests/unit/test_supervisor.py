"""The supervisor over a server process without an engine (tests/stand_in): real sockets, processes and signals."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.ending import TIED
from serving.errors import UsageError
from serving.guard.respond import asks_again
from serving.guard.suspects import CONVICTED_AT
from serving.machine.port import free_port
from serving.planning.memory import MIB
from serving.supervisor.restarts import MOST_CRASHES, MOST_UNREADY, PAUSES_S, WINDOW_S, Restarts, slept_s
from serving.unsafe import check_unsafe
from tests.exporting import Card

LONG_S = 60


class Supervised:
    """A running supervisor; asks it questions."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], output: Path) -> None:
        self.port = port
        self.process = process
        self.output = output

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=LONG_S, trust_env=False)

    def ask(self, tokens: int = 1, text: str = "hi", headers: dict[str, str] | None = None) -> httpx.Response:
        body = {"model": "demo", "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=LONG_S, trust_env=False)

    def until(self, status: int, path: str = "/ready") -> None:
        for _ in range(10 * LONG_S):
            with contextlib.suppress(httpx.HTTPError):
                if self.get(path).status_code == status:
                    return
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)
        pytest.fail(f"{path} is not {status}: {self.output.read_text()}")

    def server(self) -> psutil.Process:
        (server,) = psutil.Process(self.process.pid).children()
        return server

    def ends(self) -> int:
        return self.process.wait(LONG_S)

    def restarts(self) -> int:
        return int(self.get("/onecard/status").json()["restarts"])


@contextlib.contextmanager
def supervised(
    folder: Path, does: str = "", drain_s: float = LONG_S, hang_s: float = LONG_S, port: int = 0, **more: str
) -> Iterator[Supervised]:
    port = port or free_port()
    # Without an exporter, but for the test that asks for one.
    environment = (
        {"ONECARD_EXPORTER_PORT": "0"} | os.environ | {"ONECARD_STATE_DIR": str(folder), "STAND_IN": does} | more
    )
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            # The last words are what the commands know a onecard by.
            [*TIED, sys.executable, "-m", "tests.stand_in.supervised", str(port), str(drain_s), str(hang_s),
             "onecard", "serve"],
            cwd=Path(__file__).parents[2], env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Supervised(port, process, folder / "output")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def supervised_with_keys(folder: Path) -> Iterator[Supervised]:
    """Ready; `open-sesame` may ask for ever, and `one-wish` once a day."""
    (folder / "keys").write_text("all:open-sesame\nfew:one-wish requests/day=1\n")
    with supervised(folder, ONECARD_API_KEYS_FILE=str(folder / "keys")) as running:
        running.until(200)
        yield running


def held_in_its_start(running: Supervised) -> psutil.Process:
    """Kills the server process; the next one, stopped as soon as it is there. Not before it is a program of its own: until
    then the supervisor, which answers meanwhile, waits for it."""
    before = running.server()
    before.kill()
    while True:
        for each in psutil.Process(running.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if each.pid != before.pid and "tests.stand_in.server" in each.cmdline():
                    each.suspend()
                    return each
        time.sleep(0.01)


@contextlib.contextmanager
def asking(running: Supervised, tokens: int) -> Iterator[list[Any]]:
    """A question that is under way in the block; its status, or what broke it, is in the list afterwards."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(running.ask(tokens).status_code)
        except httpx.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while running.get("/onecard/status").json()["queue"]["running"] == 0:
        time.sleep(0.02)
    yield answers
    thread.join()


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_sigterm_lets_answers_finish_and_refuses_new_ones_meanwhile(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.until(200)
        with asking(running, tokens=250) as answers:
            running.process.send_signal(signal.SIGTERM)
            running.until(503)
            late = running.ask()
            assert (late.status_code, late.json()["error"]["code"]) == (503, "not_ready")
            assert int(late.headers["retry-after"]) > 0
            assert running.get("/onecard/status").json()["state"] == "draining"
            assert running.get("/health").status_code == 200
        assert answers == [200]
        assert running.ends() == 0
        assert port_is_free(running.port)


def broken_off(tmp_path: Path, *signals: int, drain_s: float = LONG_S, does: str = "") -> None:
    """A long answer is under way, the signals come, and everything ends without it."""
    with supervised(tmp_path, does, drain_s) as running:
        running.until(200)
        server = running.server()
        with asking(running, tokens=1000) as answers:
            for number in signals:
                running.process.send_signal(number)
                time.sleep(0.2)
            assert running.ends() == 0
        assert answers != [200]
        assert not server.is_running()
        assert port_is_free(running.port)


def test_a_second_sigterm_ends_everything_at_once(tmp_path: Path) -> None:
    broken_off(tmp_path, signal.SIGTERM, signal.SIGTERM)


def test_an_answer_that_outlasts_the_drain_time_is_broken_off(tmp_path: Path) -> None:
    broken_off(tmp_path, signal.SIGTERM, drain_s=0.3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_waits_for_no_long_answer(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests themselves may run under nohup
    try:
        broken_off(tmp_path, number)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_under_nohup_it_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, and its children inherit
    try:
        with supervised(tmp_path) as running:
            running.until(200)
            running.process.send_signal(signal.SIGHUP)
            assert running.ask(tokens=100).status_code == 200
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_does_not_end_by_itself_is_killed(tmp_path: Path) -> None:
    broken_off(tmp_path, signal.SIGTERM, drain_s=0.3, does="deaf")


def test_a_server_that_dies_is_started_again_and_the_port_never_closes(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.until(200)
        lost: list[httpx.ConnectError] = []
        done = threading.Event()

        def poll() -> None:
            while not done.is_set():
                try:
                    running.get("/health")
                except httpx.ConnectError as error:
                    lost.append(error)
                except httpx.HTTPError:
                    pass  # cut off by the death itself
                time.sleep(0.01)

        poller = threading.Thread(target=poll)
        poller.start()
        with pytest.raises(httpx.HTTPError):
            running.ask(text="die")
        running.until(503)
        running.until(200)
        done.set()
        poller.join()
        assert (lost, running.restarts()) == ([], 1)
        assert running.ask().status_code == 200


def test_a_death_is_seen_while_what_the_server_has_started_holds_its_output(tmp_path: Path) -> None:
    with supervised(tmp_path, "starts another", hang_s=10 * LONG_S) as running:
        running.until(200)
        server = running.server()
        started = server.children()
        server.kill()
        _, left = psutil.wait_procs(started, LONG_S)
        for each in left:
            each.kill()
        assert (len(started), left) == (1, [])
        running.until(200)
        assert running.restarts() == 1
        running.process.terminate()
        assert running.ends() == 0


def test_a_full_disk_is_no_reason_not_to_start_again(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.until(200)
        home = tmp_path / str(running.port)
        for name in ("launch.json", "launch.tmp", "server.tmp", "timings.tmp"):
            (home / name).unlink(missing_ok=True)
            (home / name).symlink_to("/dev/full")
        running.server().kill()
        running.until(503)
        running.until(200)
        assert running.restarts() == 1
        running.process.terminate()
        assert running.ends() == 0
        assert "Traceback" not in running.output.read_text()


def test_a_state_folder_that_somebody_removes_is_there_again_with_the_next_start(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.until(200)
        home = tmp_path / str(running.port)
        shutil.rmtree(home)
        running.server().kill()
        running.until(503)
        running.until(200)
        assert json.loads((home / "server.json").read_text())["pid"] == running.process.pid
        assert (home / "server.log").exists()


def test_nobody_has_to_hear_what_is_said_of_a_start(tmp_path: Path) -> None:
    (tmp_path / "output").symlink_to("/dev/full")
    with supervised(tmp_path) as running:
        running.output = tmp_path / "nothing"
        running.output.touch()
        running.until(200)
        running.server().kill()
        running.until(503)
        running.until(200)
        assert running.restarts() == 1


def test_who_asks_again_during_a_restart_is_held_until_it_is_ready(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.until(200)
        starting = held_in_its_start(running)
        refused = running.ask()
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
        with ThreadPoolExecutor() as threads:
            held = threads.submit(running.ask, headers={"x-stainless-retry-count": "1"})
            while running.get("/onecard/status").json()["queue"]["waiting"] == 0:
                time.sleep(0.01)
            starting.resume()
            assert held.result().status_code == 200, held.result().text


@pytest.mark.parametrize("count", ["0", "", "-1", "many", "9" * 5000])
def test_a_first_try_is_not_held_however_it_is_counted(count: str) -> None:
    scope = {"type": "http", "headers": [(b"x-stainless-retry-count", count.encode())]}
    assert asks_again(scope) == (count[:1] == "9")


def test_a_request_that_kills_the_server_again_and_again_is_not_tried_for_ever(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        for crashes in range(CONVICTED_AT):
            running.until(200)
            assert running.restarts() == crashes
            with pytest.raises(httpx.HTTPError):
                running.ask(text="die")
            running.until(503)
        running.until(200)
        refused = running.ask(text="die")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "quarantined")
        assert running.ask().status_code == 200
        assert running.restarts() == CONVICTED_AT


def test_a_server_that_says_nothing_any_more_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, hang_s=2) as running:
        running.until(200)
        running.server().suspend()
        running.until(503)
        seen = [running.get("/onecard/status").json()]
        while seen[-1]["state"] != "ready":
            with contextlib.suppress(httpx.HTTPError):
                seen.append(running.get("/onecard/status").json())
        assert running.restarts() == 1
        assert "has said nothing" in running.output.read_text()
        # From the first moment on it is a start that is told of, and not the end of the last one.
        assert {status["step"] for status in seen if status["state"] == "restarting"} == {"import"}


def test_a_server_that_died_of_others_memory_waits_for_it_and_says_so(tmp_path: Path) -> None:
    with supervised(tmp_path, "crowded") as running:
        running.until(200)
        with pytest.raises(httpx.HTTPError):
            running.ask(text="die")
        running.until(503)
        ends = time.monotonic() + LONG_S
        while "other programs hold" not in running.get("/onecard/status").json().get("step_title", ""):
            assert time.monotonic() < ends, "it waits for no memory"
            time.sleep(0.05)
        refused = running.ask()
        assert refused.status_code == 503
        assert "other programs hold the GPU's memory" in refused.json()["error"]["message"]
        running.until(200)
        assert running.restarts() == 1


def others_hold(card: Card, mib: int) -> None:
    card.tells(
        nvmlDeviceGetName="NVIDIA GeForce RTX 3060",
        **{"nvmlDeviceGetMemoryInfo.total": str(12_288 * MIB), "nvmlDeviceGetMemoryInfo.used": str(mib * MIB)},
    )


def test_a_server_whose_memory_others_took_is_planned_smaller_and_as_before_when_it_is_free(tmp_path: Path) -> None:
    card = Card(tmp_path)
    others_hold(card, 100)

    def dies_and_is_back(restarts: int) -> Any:
        with pytest.raises(httpx.HTTPError):
            running.ask(text="die")
        running.until(503)
        running.until(200)
        assert running.restarts() == restarts
        return running.get("/onecard/status").json()["plan"]

    with supervised(tmp_path, "shared", **card.environment) as running:
        running.until(200)
        first = running.get("/onecard/status").json()["plan"]
        assert (first["profile"], first["given_up"]) == ("rtx3060", [])
        others_hold(card, 9_000)
        smaller = dies_and_is_back(restarts=1)
        assert smaller["memory_mib"]["total"] <= 12_288 - 9_000
        assert smaller["capacity"]["kv_tokens"] < first["capacity"]["kv_tokens"]
        given_up = "8,300 MiB of the card, which other programs hold now"
        assert smaller["given_up"] == [given_up]
        assert given_up in running.output.read_text()
        others_hold(card, 100)
        assert dies_and_is_back(restarts=2) == first


def test_a_server_beside_which_nothing_useful_fits_waits(tmp_path: Path) -> None:
    card = Card(tmp_path)
    others_hold(card, 100)
    with supervised(tmp_path, "shared", **card.environment) as running:
        running.until(200)
        others_hold(card, 12_200)
        with pytest.raises(httpx.HTTPError):
            running.ask(text="die")
        ends = time.monotonic() + LONG_S
        while running.output.read_text().count("Waiting: other programs hold") < 2:
            assert time.monotonic() < ends, "it waits for no memory"
            time.sleep(0.05)
        assert running.get("/ready").status_code == 503
        assert "Planned again" not in running.output.read_text()


def test_a_start_for_the_caches_ends_when_it_is_ready(tmp_path: Path) -> None:
    with supervised(tmp_path, "once") as running:
        assert running.ends() == 0
        assert "the caches are built" in running.output.read_text()
        assert port_is_free(running.port)


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("refused", 12, "vLLM does not take that."),
        ("broken", 13, "RuntimeError: the weights are of clay"),
        ("crashes", 13, "crashed 4 times"),
    ],
)
def test_what_will_not_get_better_is_given_up_with_its_reason(tmp_path: Path, does: str, code: int, words: str) -> None:
    with supervised(tmp_path, does) as running:
        assert running.ends() == code
        assert words in running.output.read_text()
        assert port_is_free(running.port)


def test_a_killed_supervisor_leaves_nothing_and_the_next_start_works(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.until(200)
        server = running.server()
        running.process.kill()
        running.process.wait()
        server.wait(LONG_S)
        assert port_is_free(running.port)
    with supervised(tmp_path, port=running.port) as again:
        again.until(200)


# --- the policies by themselves ---


def test_a_server_that_is_never_ready_again_is_given_up_after_growing_pauses() -> None:
    restarts = Restarts()
    assert list(PAUSES_S) == sorted(PAUSES_S)
    assert [restarts.crashed(None) for _ in range(MOST_UNREADY)] == list(PAUSES_S)
    assert restarts.crashed(None) is None
    assert "before it was ready" in restarts.too_many


def test_having_been_ready_begins_the_row_anew_and_not_the_budget() -> None:
    restarts = Restarts()
    for _ in range(MOST_UNREADY):
        restarts.crashed(None)
    assert restarts.crashed(1.0) == PAUSES_S[-1]
    assert restarts.crashed(None) == PAUSES_S[-1]


def test_twenty_kills_just_after_it_was_ready_are_recovered_from() -> None:
    restarts = Restarts()
    assert None not in [restarts.crashed(0.1) for _ in range(20)]


@pytest.mark.parametrize("served_s", [1.0, 15.0, 20.0])
def test_a_server_that_dies_of_every_few_requests_is_not_started_for_ever(served_s: float) -> None:
    restarts = Restarts()
    pauses = [restarts.crashed(served_s) for _ in range(MOST_CRASHES + 1)]
    assert pauses == [*PAUSES_S, *[PAUSES_S[-1]] * (MOST_CRASHES - len(PAUSES_S)), None]
    assert f"{MOST_CRASHES + 1} times within 10 minutes of service" in restarts.too_many


def test_a_crash_is_forgotten_after_ten_minutes_of_service() -> None:
    restarts = Restarts()
    assert [restarts.crashed(WINDOW_S + 1) for _ in range(100)] == [PAUSES_S[0]] * 100
    assert [restarts.crashed(WINDOW_S / 2 + 1) for _ in range(100)] == [PAUSES_S[1]] * 100


def test_a_machine_that_did_not_sleep_has_not_slept() -> None:
    before = slept_s()
    assert abs(slept_s() - before) < 0.1


def refused() -> AbstractContextManager[Any]:
    return pytest.raises(UsageError, match="--unsafe")


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"VLLM_SERVER_DEV_MODE": "1"}, {}),
        ({"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}, {}),
        ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}, {}),
        ({}, {"trust_remote_code": True}),
        ({}, {"allowed_local_media_path": "/"}),
        ({}, {"enable_mm_embeds": True}),
    ],
)
def test_what_opens_vllm_to_foreign_code_needs_one_flag(environment: dict[str, str], arguments: dict[str, Any]) -> None:
    with refused():
        check_unsafe(environment, arguments, allowed=False)
    check_unsafe(environment, arguments, allowed=True)


def test_what_is_switched_off_is_no_reason() -> None:
    check_unsafe({"VLLM_SERVER_DEV_MODE": "0", "PATH": "1"}, {"trust_remote_code": False, "seed": 1}, allowed=False)


@pytest.mark.parametrize(("parent", "ends"), [("os.getppid()", 0), ("-1", -signal.SIGKILL)])
def test_a_process_whose_parent_has_died_before_it_asked_for_the_same_end_ends(parent: str, ends: int) -> None:
    code = f"import os; from serving.plugin import die_with_parent; die_with_parent({parent})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == ends
