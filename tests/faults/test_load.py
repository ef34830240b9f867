"""More than the card can do, and clients that leave: what is refused, what is served, and that all of it is given back."""

import contextlib
import json
import math
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics.catalog import REFUSAL_SECONDS
from tests.conftest import Server
from tests.faults.table import Line

Answers = list[tuple[int, float, bool]]


def start_burst(port: int, count: int, tokens: int, *more: str) -> "subprocess.Popen[bytes]":
    """`more` is a key, and "flood" where it is to last until it is killed."""
    command = [sys.executable, "-m", "tests.faults.burst", str(port), str(count), str(tokens), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def burst(port: int, count: int, tokens: int) -> Answers:
    with start_burst(port, count, tokens) as process:
        output, _ = process.communicate(timeout=600)
    return [tuple(each) for each in json.loads(output)]


def idle(server: Server) -> bool:
    """Nothing runs or waits, in the guard and in the engine, and no KV cache is held."""
    queue = server.get("/onecard/status").json()["queue"]
    lines = server.get("/metrics").text.splitlines()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting{", "vllm:kv_cache_usage_perc")
    held = [float(line.split()[-1]) for line in lines if line.startswith(names)]
    return len(held) >= 3 and not any(held) and queue == {"running": 0, "waiting": 0}


def until_idle(server: Server) -> None:
    for _ in range(600):
        if idle(server):
            return
        time.sleep(0.1)
    pytest.fail("something is still held")


def served_and_refused(server: Server, answers: Answers) -> tuple[int, list[float]]:
    served = [seconds for status, seconds, _ in answers if status == 200]
    refused = sorted(seconds for status, seconds, retry in answers if status == 429 and retry)
    assert len(served) + len(refused) == len(answers), [each for each in answers if each[0] not in (200, 429)]
    at_once = server.get("/onecard/status").json()["plan"]["capacity"]["max_num_seqs"]
    assert len(served) >= at_once
    assert refused
    until_idle(server)
    return len(served), refused


class Refusals:
    """How soon the guard itself refused since this was made: the bounds of its histogram, and how many were within."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._counts()

    def _counts(self) -> dict[float, float]:
        found = text_string_to_metric_families(self._server.get("/metrics").text)
        samples = (sample for family in found if family.name == REFUSAL_SECONDS.name for sample in family.samples)
        return {
            float(sample.labels["le"]): sample.value
            for sample in samples
            if sample.name.endswith("_bucket") and sample.labels["reason"] == "overloaded"
        }

    def within(self, share: float) -> float:
        """The lowest bound, in seconds, within which so many were."""
        grown = {bound: count - self._before.get(bound, 0.0) for bound, count in self._counts().items()}
        return min(bound for bound, count in grown.items() if count >= share * grown[math.inf])


def note(table: list[Line], server: Server, count: int) -> None:
    refusals = Refusals(server)
    served, refused = served_and_refused(server, burst(server.port, count, 200))
    slowest = 1000 * refused[int(0.99 * (len(refused) - 1))]
    guards = refusals.within(0.99)
    assert guards <= 0.1
    answer = (
        f"200 for {served}, 429 for {len(refused)}: 99% of these after at most {1000 * guards:.0f} ms in the guard, "
        f"and with the client in {slowest:.0f} ms"
    )
    table.append(Line("44", f"{count:,} requests at once", answer, slowest))


@pytest.mark.usefixtures("still_right")
def test_of_a_burst_as_many_as_fit_are_served_and_the_rest_told_when_to_come_back(
    server: Server, table: list[Line]
) -> None:
    note(table, server, 200)


@pytest.mark.long
@pytest.mark.usefixtures("still_right")
def test_a_thousand_at_once(server: Server, table: list[Line]) -> None:
    (api,) = psutil.Process(server.process.pid).children()
    note(table, server, 1000)
    before = api.memory_info().rss
    note(table, server, 1000)
    assert api.memory_info().rss - before < 64 * 2**20  # what the first thousand needed is used again


def sends(port: int, stream: bool, part: float = 1.0) -> socket.socket:
    """A client that has sent this part of a question whose answer is so long that nobody comes to its end."""
    question: dict[str, Any] = {"model": "demo", "max_tokens": 3500, "ignore_eos": True, "stream": stream}
    body = json.dumps(question | {"messages": [{"role": "user", "content": "hi"}]}).encode()
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[: int(part * len(body))])
    return client


@pytest.mark.usefixtures("still_right")
def test_of_clients_that_leave_nothing_is_kept(server: Server) -> None:
    with contextlib.ExitStack() as leaving:
        for _ in range(20):  # some run and some wait
            leaving.enter_context(sends(server.port, stream=False))
        for _ in range(10):
            leaving.enter_context(sends(server.port, stream=False, part=0.5))
        streaming = leaving.enter_context(sends(server.port, stream=True))
        while server.get("/onecard/status").json()["queue"]["waiting"] == 0:
            time.sleep(0.05)
        streaming.settimeout(0.1)
        assert not idle(server)
    until_idle(server)


@pytest.mark.long
@pytest.mark.usefixtures("still_right")
def test_a_reader_that_does_not_read_is_cut_off(server: Server) -> None:
    """An answer larger than the kernel's buffers, of which nothing is read."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        question = {"model": "demo", "max_tokens": 1000, "ignore_eos": True, "stream": True, "n": 4, "logprobs": True}
        question |= {"top_logprobs": 20, "temperature": 1, "messages": [{"role": "user", "content": "hi"}]}
        body = json.dumps(question).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while server.get("/onecard/status").json()["queue"]["running"] == 0:
            time.sleep(0.05)
        until_idle(server)
