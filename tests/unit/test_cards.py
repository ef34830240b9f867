"""Two cards, a server each, on one socket: the supervisor over two stand-ins, with real connections and signals."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.ipc.board import Board
from tests.unit.test_sleeping import to_sleep
from tests.unit.test_supervisor import LONG_S, Supervised, supervised

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def request(tokens: int = 1, text: str = "hi") -> bytes:
    body = {"model": "demo", "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}
    return json.dumps(body).encode()


def cards(running: Supervised) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.get("/onecard/status").json()["cards"]
    return found


def until_cards(running: Supervised, *states: str) -> None:
    ends = time.monotonic() + LONG_S
    while [card["state"] for card in cards(running)] != list(states):
        assert time.monotonic() < ends, running.output.read_text()
        time.sleep(0.05)


@contextlib.contextmanager
def two(folder: Path, does: str = "", **more: str) -> Iterator[Supervised]:
    with supervised(folder, does, CARDS="2", **more) as running:
        running.until(200)
        until_cards(running, "ready", "ready")
        yield running


def server_of(running: Supervised, card: int) -> psutil.Process:
    """The process that has that card's launch."""
    for child in psutil.Process(running.process.pid).children():
        if json.loads(Path(child.environ()["ONECARD_LAUNCH"]).read_text())["card"] == card:
            return child
    raise AssertionError(f"nobody has card {card}: {running.output.read_text()}")


@contextlib.contextmanager
def held_back(running: Supervised, those: set[int]) -> Iterator[None]:
    """The start of a server that is none of those, as long as the block lasts."""
    ends = time.monotonic() + LONG_S
    found: list[psutil.Process] = []
    while not found:
        assert time.monotonic() < ends, running.output.read_text()
        for each in psutil.Process(running.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if each.pid not in those and "tests.stand_in.server" in each.cmdline():
                    each.suspend()
                    found.append(each)
    try:
        yield
    finally:
        found[0].resume()


@contextlib.contextmanager
def kept_alive(running: Supervised) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=LONG_S)) as connection:
        yield connection


def answered_by(connection: http.client.HTTPConnection, tokens: int) -> int:
    connection.request("POST", CHAT, request(tokens), JSON)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    assert answer.status == 200, told
    return int(told["card"])


def test_connections_that_are_kept_alive_are_spread_over_both_cards_however_they_were_accepted(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        os.kill(server_of(running, 1).pid, signal.SIGSTOP)  # so that all are accepted by the other
        connections = [http.client.HTTPConnection("127.0.0.1", running.port, timeout=LONG_S) for _ in range(8)]
        assert {answered_by(connection, 1) for connection in connections} == {0}
        os.kill(server_of(running, 1).pid, signal.SIGCONT)
        with ThreadPoolExecutor(8) as threads:
            first = Counter(threads.map(lambda each: answered_by(each, 100), connections))
            second = Counter(threads.map(lambda each: answered_by(each, 100), connections))
        for each in connections:
            each.close()
        assert min(first[0], first[1]) >= 3
        assert min(second[0], second[1]) >= 3


def test_a_large_body_goes_along_whole(tmp_path: Path) -> None:
    with two(tmp_path) as running, ThreadPoolExecutor(4) as threads:
        text = "x" * 300_000

        def ask(_: int) -> dict[str, Any]:
            with kept_alive(running) as connection:
                connection.request("POST", CHAT, request(50, text), JSON)
                answer = connection.getresponse()
                assert answer.status == 200
                found: dict[str, Any] = json.loads(answer.read())
                return found

        answers = list(threads.map(ask, range(4)))
    assert {answer["size"] for answer in answers} == {len(request(50, text))}
    assert {answer["card"] for answer in answers} == {0, 1}


def test_one_that_is_killed_takes_only_what_ran_on_it_and_returns(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        lost, found, over = [], Counter[int](), threading.Event()

        def ask_on() -> None:
            while not over.is_set():
                try:
                    with kept_alive(running) as connection:
                        while not over.is_set():
                            found[answered_by(connection, 20)] += 1
                except (OSError, http.client.HTTPException) as error:
                    lost.append(error)

        threads = [threading.Thread(target=ask_on) for _ in range(6)]
        for thread in threads:
            thread.start()
        while not (found[0] and found[1]):
            time.sleep(0.01)
        had = cards(running)[1]["requests"]
        server_of(running, 1).kill()
        until_cards(running, "ready", "restarting")
        assert running.get("/ready").status_code == 200
        before = found[0]
        while found[0] < before + 20:  # the other serves on
            time.sleep(0.01)
        until_cards(running, "ready", "ready")
        again = found[1]
        while found[1] == again:
            time.sleep(0.01)
        over.set()
        for thread in threads:
            thread.join()
        assert [card["restarts"] for card in cards(running)] == [0, 1]
        # What ran there, and what had been accepted there and not yet been read.
        assert len(lost) <= max(had, len(threads))
        assert running.get("/onecard/status").json()["restarts"] == 1


def test_a_dead_engines_server_attracts_no_requests_although_it_has_none_left(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        lost: list[float] = []
        found, over = Counter[int](), threading.Event()

        def ask_on() -> None:
            while not over.is_set():
                with kept_alive(running) as connection:
                    while not over.is_set():
                        at = time.monotonic()
                        try:
                            connection.request("POST", CHAT, request(20), JSON)
                            answer = connection.getresponse()
                            told = json.loads(answer.read())
                        except (OSError, http.client.HTTPException):
                            lost.append(at)
                            break
                        if answer.status != 200:
                            lost.append(at)
                            break
                        found[told["card"]] += 1

        threads = [threading.Thread(target=ask_on) for _ in range(8)]
        for thread in threads:
            thread.start()
        while not (found[0] and found[1]):
            time.sleep(0.01)
        servers = [server_of(running, card) for card in range(2)]
        assert running.ask(text="the engine dies").status_code == 503
        died = time.monotonic()
        while all(server.is_running() for server in servers):  # a question about the status might end with it
            time.sleep(0.02)
        over.set()
        for thread in threads:
            thread.join()
        assert [at for at in lost if at > died] == []


def test_connections_that_rest_at_a_server_outlive_it_when_its_engine_dies(tmp_path: Path) -> None:
    with two(tmp_path) as running, contextlib.ExitStack() as stack:
        first, second = (server_of(running, card) for card in range(2))
        second.suspend()  # so that all are accepted by the first
        connections = [stack.enter_context(kept_alive(running)) for _ in range(4)]
        assert {answered_by(connection, 1) for connection in connections} == {0}
        second.resume()
        for each in connections:
            each.auto_open = 0  # nothing is connected anew
        connections[0].request("POST", CHAT, request(text="the engine dies"), JSON)
        assert connections[0].getresponse().status == 503
        first.wait(LONG_S)
        for each in connections[1:]:
            answered_by(each, 1)


def test_a_request_that_killed_one_card_is_not_let_through_to_the_last(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        before = {server_of(running, card).pid for card in range(2)}
        with pytest.raises(httpx.HTTPError):
            running.ask(text="die")
        with held_back(running, before):
            waits = [running.ask(text="die") for _ in range(3)]
            assert {(each.status_code, each.json()["error"]["code"]) for each in waits} == {(503, "not_ready")}
            assert all(int(each.headers["retry-after"]) >= 1 for each in waits)
            assert running.ask().status_code == 200
        until_cards(running, "ready", "ready")
        assert running.restarts() == 1
        with pytest.raises(httpx.HTTPError):
            running.ask(text="die")  # while another serves, it has another try


def test_metrics_and_status_are_of_all_cards(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        for _ in range(6):  # whoever accepts it
            text = running.get("/metrics").text
            assert 'vllm:num_requests_running{card="0"} 0' in text
            assert 'vllm:num_requests_running{card="1"} 0' in text
            assert 'onecard_state{card="1",state="ready"} 1.0' in text
            families = {family.name: family for family in text_string_to_metric_families(text)}
            running_by_card = {sample.labels["card"] for sample in families["onecard_state"].samples}
            assert running_by_card == {"0", "1"}
            assert text.count("# TYPE onecard_state gauge") == 1
        status = running.get("/onecard/status").json()
        assert (status["state"], [card["card"] for card in status["cards"]]) == ("ready", [0, 1])


def test_a_key_has_its_quota_once_and_not_on_each_card(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("few:four-wishes requests/day=4\nother:much\n")
    with supervised(tmp_path, CARDS="2", ONECARD_API_KEYS_FILE=str(keys)) as running:
        running.until(200)
        headers = {"Authorization": "Bearer much"}
        url = f"http://127.0.0.1:{running.port}"
        while [
            card["state"]
            for card in httpx.get(f"{url}/onecard/status", headers=headers, trust_env=False).json()["cards"]
        ] != ["ready", "ready"]:
            time.sleep(0.05)

        def ask(_: int) -> int:
            few = JSON | {"Authorization": "Bearer four-wishes"}
            return httpx.post(
                f"{url}{CHAT}", content=request(50), headers=few, trust_env=False, timeout=LONG_S
            ).status_code

        with ThreadPoolExecutor(10) as threads:
            assert Counter(threads.map(ask, range(10))) == {200: 4, 429: 6}


def test_a_card_that_is_given_up_leaves_the_other_serving(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        for _ in range(10 * LONG_S):
            states = [card["state"] for card in cards(running)]
            if states == ["ready", "lost"]:
                break
            if states == ["ready", "ready"]:
                server_of(running, 1).kill()
            time.sleep(0.1)
        lost = cards(running)[1]
        assert lost["state"] == "lost"
        assert "not started again" in lost["why"]
        assert running.ask().status_code == 200
        assert running.get("/ready").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.ends() == 0


def test_one_that_does_not_come_up_keeps_only_itself_from_serving(tmp_path: Path) -> None:
    with supervised(tmp_path, "second never starts", CARDS="3") as running:
        running.until(200)
        until_cards(running, "ready", "starting", "ready")
        assert running.ask().status_code == 200


def test_when_the_last_one_is_given_up_that_is_the_end(tmp_path: Path) -> None:
    with supervised(tmp_path, "refused", CARDS="2") as running:
        assert running.ends() == 12
        assert "vLLM does not take that." in running.output.read_text()


def test_both_sleep_and_both_wake(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        to_sleep(running)
        assert psutil.Process(running.process.pid).children() == []
        assert running.ask().status_code == 200
        until_cards(running, "ready", "ready")


def test_each_card_keeps_its_count_of_restarts_through_a_sleep(tmp_path: Path) -> None:
    with two(tmp_path) as running:
        server_of(running, 1).kill()
        until_cards(running, "ready", "restarting")
        until_cards(running, "ready", "ready")
        to_sleep(running)
        assert running.ask().status_code == 200
        until_cards(running, "ready", "ready")
        assert [card["restarts"] for card in cards(running)] == [0, 1]


def test_sigterm_lets_both_finish(tmp_path: Path) -> None:
    with two(tmp_path) as running, ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(running.ask, 200) for _ in range(4)]
        while sum(card["requests"] for card in cards(running)) < 4:
            time.sleep(0.02)
        running.process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in answers] == [200] * 4
        assert running.ends() == 0


def test_the_board_names_who_is_open_the_least_busy_first() -> None:
    board = Board.for_cards(3)
    board.open(0)
    board.open(2)
    board.post(0, 5, 10.0, arrived=0, given=0)
    board.post(2, 4, 20.0, arrived=0, given=0)
    same = Board(board.descriptor)
    assert same.open_cards() == [2, 0]
    assert same.idle_since() is None
    board.count(2, sent=3, taken=0)
    assert same.open_cards() == [0, 2]  # three are on the way to it
    board.post(2, 7, 20.0, arrived=3, given=1)
    assert (same.load(2), same.undecided) == (7, 1)
    board.count(2, sent=3, taken=1)
    assert same.undecided == 0
    board.post(0, 0, 30.0, arrived=0, given=0)
    board.post(2, 0, 20.0, arrived=3, given=1)
    assert same.idle_since() == 30.0
    board.close(2)
    assert (same.open_cards(), same.load(2)) == ([0], 0)
