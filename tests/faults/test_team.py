"""A server with keys for several people, from its start to SIGTERM, on a machine whose disk is full."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.conftest import Server, start_server
from tests.faults.table import Line
from tests.faults.test_load import start_burst

KEYS = "# name:key\nalice:alice-long-word\nbob:bob-long-word\ncarol:carol-long-word requests/day=2\n"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("team")
    (folder / "keys").write_text(KEYS)
    # Every write to the log meets ENOSPC from the first line on.
    log = "server.log"
    server = start_server(
        folder, "--api-keys-file", str(folder / "keys"), before=lambda run: (run / log).symlink_to("/dev/full")
    )
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def asks(team: Server, key: str, **more: Any) -> httpx.Response:
    body = {"model": "demo", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]} | more
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{team.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=120, trust_env=False)


@pytest.mark.parametrize("key", ["", "wrong", "alice", "alice-long-word2"])
def test_without_a_key_of_its_own_nobody_is_let_in(team: Server, table: list[Line], key: str) -> None:
    began = time.monotonic()
    reply = asks(team, key, user="x" * (5 * 2**20))  # refused before it has been read
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    table.append(Line("7", f"the key {key!r} and 5 MB", "401", 1000 * (time.monotonic() - began)))
    with team.openai() as client, pytest.raises(openai.AuthenticationError):
        client.with_options(api_key=key or "none").models.list()
    for path in ("/metrics", "/docs", "/tokenize", "/onecard/status", "/v1/models", "/x"):
        assert team.get(path).status_code == 401
    assert [team.get(path).status_code for path in ("/health", "/ready")] == [200, 200]


def test_a_full_disk_keeps_nobody_from_being_served(team: Server, table: list[Line]) -> None:
    assert asks(team, "alice-long-word").status_code == 200
    table.append(Line("52", "no space for the log", "200"))


def test_a_quota_is_counted_down_and_kept(team: Server) -> None:
    replies = [asks(team, "carol-long-word") for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
    assert replies[2].json()["error"]["code"] == "rate_limit_exceeded"


def test_who_floods_keeps_nobody_else_from_being_served(team: Server, table: list[Line]) -> None:
    def five() -> float:
        began = time.monotonic()
        assert [asks(team, "bob-long-word").status_code for _ in range(5)] == [200] * 5
        return (time.monotonic() - began) / 5

    for _ in range(4):
        five()  # the first ones after a start take longer
    alone_s = min(five() for _ in range(3))
    with flooded(team):
        beside_s = min(five() for _ in range(3))
    while any(queue(team).values()):
        time.sleep(0.05)
    alone_s = min(alone_s, *(five() for _ in range(3)))
    what = f"200; {beside_s / alone_s:.1f} times as long as alone"
    table.append(Line("44", "a request of one key while another floods", what, 1000 * beside_s))


@contextlib.contextmanager
def flooded(team: Server) -> Iterator[None]:
    """Alice fills the queue, and fills it again, from the begin to the end."""
    with start_burst(team.port, 40, 2000, "alice-long-word", "flood") as flood:
        try:
            until_some_wait(team)
            yield
            until_some_wait(team)
            assert flood.poll() is None
        finally:
            flood.kill()


def until_some_wait(team: Server) -> None:
    while queue(team)["waiting"] == 0:
        time.sleep(0.05)


def queue(team: Server) -> dict[str, int]:
    headers = {"Authorization": "Bearer bob-long-word"}
    status = httpx.get(f"{team.url}/onecard/status", headers=headers, timeout=60, trust_env=False).json()
    found: dict[str, int] = status["queue"]
    return found


def test_sigterm_lets_a_stream_end_and_leaves_nothing(team: Server, table: list[Line]) -> None:
    processes = psutil.Process(team.process.pid).children(recursive=True)
    # Some seconds, and less than the drain time even where each takes ten times as long.
    body = {"model": "demo", "max_tokens": 300, "ignore_eos": True, "stream": True}
    body |= {"messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": "Bearer alice-long-word"}
    url = f"{team.url}/v1/chat/completions"
    with (
        httpx.Client(timeout=120, trust_env=False, headers=headers) as http,
        http.stream("POST", url, json=body) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        team.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while team.is_ready():
            time.sleep(0.02)
        late = asks(team, "bob-long-word")
        events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in events[-2]
    assert (late.status_code, int(late.headers["retry-after"]) > 0) == (503, True)
    assert team.process.wait(60) == 0
    table.append(Line("47", "SIGTERM in a stream: it ends well, new requests", "503"))
    table.append(Line("47", "SIGTERM: everything has ended", "exit 0", 1000 * (time.monotonic() - began)))
    assert [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    assert not (team.state_dir / str(team.port) / "server.json").exists()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", team.port))
    usage = Path(team.state_dir, str(team.port), "usage.json").read_text()
    assert "carol" in usage
