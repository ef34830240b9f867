"""The long suite: one kill after another under load, what becomes of `/ready`, and a soak that fails on growth.

`ONECARD_KILLS` and `ONECARD_SOAK_S` say how many and how long; what they found goes into docs/endurance.json when
ONECARD_WRITE_FAULTS is set."""

import contextlib
import itertools
import json
import os
import random
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import DefaultHttpxClient, OpenAI

from tests.conftest import Server, start_server
from tests.faults.cases import CASES
from tests.faults.conftest import known_good
from tests.faults.table import DOCS, writing
from tests.faults.test_load import sends, until_idle

pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * 3600)]

KILLS = int(os.environ.get("ONECARD_KILLS", "20"))
SOAK_S = float(os.environ.get("ONECARD_SOAK_S", "600"))


def keep(name: str, findings: Any) -> None:
    file = DOCS / "endurance.json"
    if writing():
        kept = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(kept | {name: findings}, indent=1) + "\n")


def processes(server: Server) -> dict[str, psutil.Process]:
    supervisor = psutil.Process(server.process.pid)
    (api,) = supervisor.children()
    engine = next(each for each in api.children(recursive=True) if "EngineCore" in " ".join(each.cmdline()))
    return {"supervisor": supervisor, "server": api, "engine": engine}


class Load:
    """A few clients that ask without end, with the SDK's own retries; `lost` is what they did not get, and why."""

    def __init__(self, server: Server, clients: int) -> None:
        self._done = threading.Event()
        self.answered = 0
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(server,)) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, server: Server) -> None:
        http = DefaultHttpxClient(trust_env=False, timeout=120)
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http, max_retries=30) as client:
            while not self._done.is_set():
                try:
                    client.chat.completions.create(
                        model="demo", max_tokens=64, messages=[{"role": "user", "content": "hi"}]
                    )
                    self.answered += 1
                except openai.OpenAIError as error:
                    self.lost.append(f"{type(error).__name__}: {error}")


def test_every_kill_is_recovered_from(server: Server) -> None:
    kinds = list(itertools.product(("engine", "server"), ("kill", "suspend")))
    rounds: list[dict[str, Any]] = []
    with Load(server, clients=4) as load:
        for number in range(KILLS):
            who, how = kinds[number % len(kinds)]
            victim = processes(server)[who]
            before = server.get("/onecard/status").json()["restarts"]
            began = time.monotonic()
            getattr(victim, how)()
            while server.is_ready():
                time.sleep(0.05)
            refused_s = time.monotonic() - began
            asked = asks_with_the_sdks_own_retries(server)
            server.wait_until_ready()
            ready_s = time.monotonic() - began
            assert "red" in known_good(server.port)
            assert server.get("/onecard/status").json()["restarts"] == before + 1
            assert not victim.is_running()
            rounds.append({
                "what": f"{how} of the {who}", "refused_s": round(refused_s, 1), "ready_s": round(ready_s, 1),
                "asked_meanwhile": asked,
            })  # fmt: skip
            keep("kills", {"rounds": rounds, "answered": load.answered, "lost": load.lost})
            time.sleep(random.uniform(0, 5))
    keep("kills", {"rounds": rounds, "answered": load.answered, "lost": load.lost})
    assert load.answered
    assert load.lost == []  # refused and cut off questions were asked again by the SDK, and answered
    assert {each["asked_meanwhile"] for each in rounds} == {"answered"}


def asks_with_the_sdks_own_retries(server: Server) -> str:
    """A question of somebody who knows nothing of restarts, asked in the middle of one: it never reached the engine that
    died, and is not lost."""
    http = DefaultHttpxClient(trust_env=False, timeout=120)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http) as client:
        try:
            client.chat.completions.create(model="demo", max_tokens=8, messages=[{"role": "user", "content": "hello"}])
        except openai.OpenAIError as error:
            return f"{type(error).__name__}: {error}"
    return "answered"


def test_a_killed_supervisor_leaves_nothing_and_the_next_start_is_ready(tmp_path: Path) -> None:
    first = start_server(tmp_path)
    first.wait_until_ready()
    family = psutil.Process(first.process.pid).children(recursive=True)
    began = time.monotonic()
    first.process.kill()
    first.process.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    gone_s = time.monotonic() - began
    assert left == []
    again = start_server(tmp_path, port=first.port)
    try:
        again.wait_until_ready()
        assert "red" in known_good(again.port)
    finally:
        again.stop()
    ready_s = time.monotonic() - began
    keep("kill of the supervisor", {"gone_s": round(gone_s, 1), "next_start_ready_s": round(ready_s, 1)})


@pytest.mark.usefixtures("still_right")
@pytest.mark.parametrize(("under_load", "within_s"), [(True, 10), (False, 30)])
def test_ready_says_no_when_progress_is_lost(server: Server, under_load: bool, within_s: float) -> None:
    """By a poller every 100 ms. The engine is let go on before it is given up, and the server is ready again."""
    until_idle(server)
    engine = processes(server)["engine"]
    with contextlib.ExitStack() as stack:
        if under_load:
            stack.enter_context(sends(server.port, stream=True))
            while server.get("/onecard/status").json()["queue"]["running"] == 0:
                time.sleep(0.05)
        engine.suspend()
        stack.callback(engine.resume)
        began = time.monotonic()
        while server.is_ready():
            time.sleep(0.1)
        left_s = time.monotonic() - began
    server.wait_until_ready()
    keep(f"/ready leaves 200, {'under load' if under_load else 'idle'}", {"seconds": round(left_s, 1)})
    assert left_s <= within_s


@dataclass(frozen=True)
class Sample:
    rss_mib: float
    descriptors: int
    threads: int


def sample(server: Server) -> dict[str, Sample]:
    return {
        name: Sample(each.memory_info().rss / 2**20, each.num_fds(), each.num_threads())
        for name, each in processes(server).items()
    }


def test_nothing_grows(server: Server) -> None:
    """Good questions and bad, clients that leave and pictures, for ten minutes; then the last third beside the first."""
    samples: list[dict[str, Sample]] = []
    bad = [case for case in CASES if not case.slow]
    ends = time.monotonic() + SOAK_S
    with Load(server, clients=3):
        while time.monotonic() < ends:
            random.choice(bad).send(server.port)
            known_good(server.port)
            _leave(server)
            samples.append(sample(server))
    until_idle(server)
    third = max(1, len(samples) // 3)
    growth: dict[str, dict[str, float]] = {}
    for name in samples[0]:
        for field in ("rss_mib", "descriptors", "threads"):
            first = statistics.median(getattr(each[name], field) for each in samples[third : 2 * third])
            last = statistics.median(getattr(each[name], field) for each in samples[2 * third :])
            growth.setdefault(name, {})[field] = round(last - first, 1)
            allowed = {"rss_mib": max(20.0, 0.03 * first), "descriptors": 8, "threads": 4}[field]
            assert last - first <= allowed, (name, field, first, last)
    keep("soak", {"seconds": SOAK_S, "rounds": len(samples), "growth": growth})


def _leave(server: Server) -> None:
    """A stream that is left after its first words."""
    body = {"model": "demo", "stream": True, "max_tokens": 500, "messages": [{"role": "user", "content": "hi"}]}
    url = f"{server.url}/v1/chat/completions"
    with (
        httpx.Client(trust_env=False, timeout=120) as client,
        client.stream("POST", url, json=body | {"ignore_eos": True}) as reply,
    ):
        next(reply.iter_lines(), None)
