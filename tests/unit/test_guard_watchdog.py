"""The watchdog over an application that answers, hangs or fails as an engine does; times are shortened."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving.guard import watchdog
from serving.guard.admission import Cost
from serving.guard.body import Body
from serving.guard.state import ServerState
from serving.guard.watchdog import Watchdog
from serving.ipc import control
from serving.ipc.launch import Launch
from serving.ipc.settings import GuardSettings
from serving.prepare import prepare
from tests.asgi import CHAT, Recorder, sent


class Engine:
    """Answers canaries when it moves; `tokens` is what vLLM's counters would say."""

    def __init__(self) -> None:
        self.moves = asyncio.Event()
        self.moves.set()
        self.tokens = 0.0
        self.canaries = 0
        self.client = SimpleNamespace(errored=False, is_running=True)
        self.app = Starlette(routes=[Route(CHAT, self.chat, methods=["POST"])])
        self.app.state.engine_client = self.client

    async def chat(self, _request: Request) -> JSONResponse:
        self.canaries += 1
        await self.moves.wait()
        return JSONResponse({"choices": []})


class Watched:
    """An engine under a watchdog, and what the supervisor has been told."""

    def __init__(self, launch: Launch, told: int) -> None:
        self.engine = Engine()
        self.state = ServerState(launch)
        self.state.state = "ready"
        scope: Any = {"type": "lifespan", "app": self.engine.app}
        self.abandoned = 0
        self.watchdog = Watchdog(self.engine.app, self.state, scope, self._abandon)
        self._told = told

    def _abandon(self) -> None:
        self.abandoned += 1

    def events(self) -> list[dict[str, Any]]:
        lines = os.read(self._told, 65_536).splitlines()
        return [event for event in map(json.loads, lines) if event["event"] != "beat"]

    async def until(self, state: str) -> None:
        for _ in range(500):
            if self.state.state == state:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"{self.state.state} and not {state}")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    plan = prepare("cpu", "demo", gpu_memory_mib=8192).plan
    launch = Launch(
        plan=plan, model_folder=tmp_path, default_max_tokens=256, host="127.0.0.1", port=8123, run_dir=tmp_path,
        guard=GuardSettings(hang_timeout_s=1.5),
    )  # fmt: skip
    times = {"CANARY_IDLE_S": 0.2, "CANARY_BUSY_S": 0.05, "STALLED_S": 0.5, "_LOOK_EVERY_S": 0.02}
    for name, seconds in times.items():
        monkeypatch.setattr(watchdog, name, seconds)
    read_end, write_end = os.pipe()
    monkeypatch.setenv(control.ENVIRONMENT_KEY, str(write_end))
    control.tell(event="beat")  # so that there is something to read
    made = Watched(launch, read_end)
    monkeypatch.setattr(watchdog, "_tokens", lambda: made.engine.tokens)
    yield made
    os.close(read_end)
    os.close(write_end)


def test_an_engine_that_hangs_is_stalled_first_and_then_given_up(watched: Watched) -> None:
    async def run() -> None:
        task = asyncio.create_task(watched.watchdog.run())
        watched.engine.moves.clear()
        await watched.until("stalled")
        await watched.until("restarting")
        await task

    asyncio.run(run())
    (hung,) = watched.events()
    assert hung["event"] == "hung"
    assert "no progress" in hung["reason"]


def test_an_engine_that_moves_again_is_ready_again(watched: Watched) -> None:
    async def run() -> None:
        task = asyncio.create_task(watched.watchdog.run())
        watched.engine.moves.clear()
        await watched.until("stalled")
        watched.engine.moves.set()
        await watched.until("ready")
        task.cancel()

    asyncio.run(run())
    assert watched.events() == []


def test_while_tokens_come_a_canary_may_wait_as_long_as_it_likes(watched: Watched) -> None:
    async def run() -> None:
        task = asyncio.create_task(watched.watchdog.run())
        watched.engine.moves.clear()
        watched.state.admission.enter("", Cost(1), lambda _: None, 0.0)
        for _ in range(100):
            watched.engine.tokens += 1
            await asyncio.sleep(0.01)
            assert watched.state.state == "ready"
        task.cancel()

    asyncio.run(run())


def test_an_idle_engine_is_asked_now_and_then_and_a_moving_one_never(watched: Watched) -> None:
    async def run() -> tuple[int, int]:
        task = asyncio.create_task(watched.watchdog.run())
        await asyncio.sleep(0.9)
        idle = watched.engine.canaries
        for _ in range(50):
            watched.engine.tokens += 1
            await asyncio.sleep(0.01)
        task.cancel()
        return idle, watched.engine.canaries

    idle, after = asyncio.run(run())
    assert idle >= 1
    assert after <= idle + 1


def test_a_dead_engine_is_told_at_once_also_to_those_who_wait_for_it(watched: Watched) -> None:
    told: list[bool] = []
    admission = watched.state.admission
    for _ in range(admission.capacity.sequences + 2):
        admission.enter("", Cost(1), told.append, 0.0)
    watched.engine.client.errored = True  # and `is_running` still: the task that reads its answers has not ended
    asyncio.run(watched.watchdog.run())
    assert [event["reason"] for event in watched.events()] == ["the engine process died"]
    assert (watched.state.state, watched.abandoned) == ("restarting", 1)
    assert (admission.waiting, told.count(False)) == (0, 2)


def test_what_is_under_way_is_finished_before_the_supervisor_is_told_that_it_has_drained(watched: Watched) -> None:
    async def run() -> list[list[str]]:
        whole = asyncio.Event()

        async def upload() -> AsyncIterator[bytes]:
            await whole.wait()
            yield b"{}"

        app = watched.state.presence.layer(Body(Recorder(), 10))
        asking = asyncio.create_task(sent(app, "POST", CHAT, content=upload()))
        task = asyncio.create_task(watched.watchdog.run())
        watched.state.drain()
        await asyncio.sleep(0.1)
        seen = [[event["event"] for event in watched.events()]]
        whole.set()
        await asking
        await asyncio.sleep(0.1)
        seen.append([event["event"] for event in watched.events()])
        task.cancel()
        return seen

    assert asyncio.run(run()) == [[], ["drained"]]


def test_a_supervisor_that_does_not_read_holds_nothing_up(watched: Watched) -> None:
    for _ in range(10_000):  # more than a pipe takes
        control.tell(event="beat", padding="x" * 100)
    assert watched.events() == []
