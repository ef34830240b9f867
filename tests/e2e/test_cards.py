"""Two servers of a real vLLM on one port, which share this machine's cores: what two cards in a machine are."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import START_S, Server, start_server
from tests.faults.conftest import known_good

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    running = start_server(folder, "--cards", "2")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def states(running: Server) -> list[str]:
    return [card["state"] for card in running.get("/onecard/status").json()["cards"]]


def until(running: Server, *expected: str) -> None:
    ends = time.monotonic() + START_S
    while sorted(states(running)) != sorted(expected):
        assert time.monotonic() < ends, running.output.read_text()
        time.sleep(0.1)


def answers(running: Server, count: int) -> set[str]:
    """What so many clients at once are told about a red circle, each over a connection of its own."""
    with ThreadPoolExecutor(count) as threads:
        return set(threads.map(known_good, [running.port] * count))


def answered(running: Server) -> Counter[str]:
    """Answers by card, as vLLM counts them."""
    found = Counter[str]()
    for line in running.get("/metrics").text.splitlines():
        if line.startswith("vllm:request_success_total"):
            card = line.partition('card="')[2].partition('"')[0]
            found[card] += int(float(line.split()[-1]))
    return found


def test_both_answer_and_one_that_is_killed_comes_back_while_the_other_serves(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        until(running, "ready", "ready")
        (alone,) = answers(running, 1)
        assert "red" in alone.lower()
        before = answered(running)
        assert answers(running, 8) == {alone}
        after = answered(running)
        assert all(after[card] > before[card] for card in ("0", "1"))
        server = psutil.Process(running.process.pid).children()[-1]
        next(each for each in server.children(recursive=True) if "EngineCore" in each.name()).kill()
        until(running, "ready", "restarting")
        assert running.get("/ready").status_code == 200
        assert answers(running, 4) == {alone}
        until(running, "ready", "ready")
        assert running.get("/onecard/status").json()["restarts"] == 1
        assert answers(running, 8) == {alone}
