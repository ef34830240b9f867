"""Who is served, who waits and who is refused: the policy by itself, the layers that wait, and the quotas of keys."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serving.guard.admission import Admission, Capacity, Cost, Ticket
from serving.guard.body import Body
from serving.guard.early import Early
from serving.guard.facts import Facts, facts
from serving.guard.gate import Gate
from serving.guard.keys import KeyRing
from serving.guard.quota import Quota
from serving.guard.respond import refuse
from serving.guard.state import capacity_of
from serving.guard.turn import Turn
from serving.guard.usage import Usage
from serving.prepare import prepare
from tests.asgi import CHAT, Recorder, by_hand, error_of, request

CAPACITY = Capacity(kv_tokens=100, encoder_tokens=50, sequences=4, queue=6)


class Clock:
    """Enters and leaves at times that the test moves on, and notes who was told what."""

    def __init__(self, capacity: Capacity = CAPACITY) -> None:
        self.admission = Admission(capacity)
        self.now = 0.0
        self.told: list[tuple[str, bool]] = []

    def enter(self, key: str = "", kv: int = 10, encoder: int = 0) -> Ticket | int:
        return self.admission.enter(key, Cost(kv, encoder), lambda yes: self.told.append((key, yes)), self.now)

    def ticket(self, key: str = "", kv: int = 10, encoder: int = 0) -> Ticket:
        entered = self.enter(key, kv, encoder)
        assert isinstance(entered, Ticket)
        return entered

    def leave(self, ticket: Ticket, after: float = 1.0) -> None:
        self.now += after
        self.admission.leave(ticket, self.now)


@pytest.mark.parametrize(("kv", "encoder", "served"), [(10, 0, 4), (40, 0, 2), (60, 0, 1), (10, 20, 2), (10, 50, 1)])
def test_as_much_is_in_flight_as_the_plan_can_serve(kv: int, encoder: int, served: int) -> None:
    clock = Clock()
    tickets = [clock.ticket(kv=kv, encoder=encoder) for _ in range(5)]
    assert [ticket.state for ticket in tickets] == ["running"] * served + ["waiting"] * (5 - served)
    clock.leave(tickets[0])
    assert clock.admission.running == served


def test_a_request_for_several_answers_takes_the_place_of_several() -> None:
    clock = Clock()
    four = clock.admission.enter("", Cost(10, sequences=4), lambda _: None, 0.0)
    nine = clock.admission.enter("", Cost(10, sequences=9), lambda _: None, 0.0)
    assert isinstance(four, Ticket)
    assert isinstance(nine, Ticket)
    assert (four.state, nine.state) == ("running", "waiting")
    clock.leave(four)
    assert nine.state == "running"
    clock.leave(nine)
    assert clock.admission.sequences == 0


def test_what_is_larger_than_the_card_runs_alone_rather_than_never() -> None:
    clock = Clock()
    small, huge, after = clock.ticket(), clock.ticket(kv=10**6, encoder=10**6), clock.ticket()
    assert (huge.state, after.state) == ("waiting", "waiting")  # the small ones do not overtake it for ever
    clock.leave(small)
    assert (huge.state, after.state) == ("running", "waiting")
    clock.leave(huge)
    assert after.state == "running"


def test_beyond_the_queue_is_refused_with_the_time_that_the_queue_takes() -> None:
    clock = Clock()
    running = [clock.ticket() for _ in range(4)]
    for _ in range(6):
        clock.ticket()
    assert clock.admission.full("")
    assert clock.enter() == 7  # 70 tokens at the first guess, 100 in ten seconds
    for ticket in running:
        clock.leave(ticket, after=5)
    # 40 tokens in 20 s were measured; newer ones count more. The queue was let in meanwhile.
    assert clock.admission.waiting == 2
    assert clock.admission.retry_after(Cost(10)) in range(10, 20)


def test_who_floods_waits_behind_himself() -> None:
    clock = Clock()
    flood = [clock.ticket("flood") for _ in range(10)]
    late = clock.ticket("other")  # takes the place of the flood's last one, the queue being full
    assert clock.told[-1] == ("flood", False)
    assert (late.state, flood[9].state, flood[8].state) == ("waiting", "done", "waiting")
    clock.leave(flood[0])
    assert late.state == "running"


def test_two_keys_in_a_crowd_are_served_in_turns() -> None:
    clock = Clock(Capacity(kv_tokens=10, encoder_tokens=0, sequences=1, queue=40))
    first = clock.ticket("a")
    waiting = [clock.ticket("a") for _ in range(10)] + [clock.ticket("b") for _ in range(10)]
    order = []
    running = first
    for _ in range(10):
        clock.leave(running)
        (running,) = [each for each in waiting if each.state == "running"]
        order.append(running.key)
    assert order.count("a") == order.count("b") == 5


def test_while_another_is_about_no_key_has_everything() -> None:
    clock = Clock()
    alone = [clock.ticket("flood") for _ in range(4)]
    assert [ticket.state for ticket in alone] == ["running"] * 4  # nobody else is about
    clock.leave(clock.ticket("other"))  # who has given up waiting is still about
    waiting = [clock.ticket("flood") for _ in range(2)]
    clock.leave(alone[0])
    assert (clock.admission.running, waiting[0].state) == (3, "waiting")
    assert clock.ticket("other").state == "running"  # at once, past those who wait
    clock.leave(alone[1])
    assert waiting[0].state == "running"
    clock.now += 100  # the other has gone
    clock.leave(alone[2])
    assert waiting[1].state == "running"


def test_a_key_that_asks_for_much_waits_longer_than_one_that_asks_for_little() -> None:
    clock = Clock(Capacity(kv_tokens=100, encoder_tokens=0, sequences=1, queue=40))
    running = clock.ticket("x")
    waiting = [clock.ticket("large", kv=90) for _ in range(4)] + [clock.ticket("small", kv=10) for _ in range(8)]
    served: list[str] = []
    for _ in range(9):
        clock.leave(running)
        (running,) = [each for each in waiting if each.state == "running"]
        served.append(running.key)
    assert served.count("small") == 8


def test_who_leaves_the_queue_gives_the_place_back_and_is_not_told() -> None:
    clock = Clock()
    running = [clock.ticket(kv=25) for _ in range(4)]
    waiting = clock.ticket("late")
    clock.leave(waiting)
    clock.leave(waiting)  # whoever calls twice changes nothing
    for ticket in running:
        clock.leave(ticket)
    assert ("late", True) not in clock.told
    assert (clock.admission.running, clock.admission.kv_tokens, clock.admission.waiting) == (0, 0, 0)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 120), st.integers(0, 60), st.integers(0, 9)), max_size=60)
)
def test_whatever_comes_and_goes_nothing_is_overbooked_lost_or_kept(steps: list[tuple[str, int, int, int]]) -> None:
    clock = Clock()
    tickets: list[Ticket] = []
    for key, kv, encoder, leaving in steps:
        entered = clock.enter(key, kv, encoder)
        if isinstance(entered, Ticket):
            tickets.append(entered)
        else:
            assert 1 <= entered <= 120
        if leaving < len(tickets):
            clock.leave(tickets.pop(leaving))
        running = [ticket for ticket in tickets if ticket.state == "running"]
        waiting = [ticket for ticket in tickets if ticket.state == "waiting"]
        policy = clock.admission
        assert policy.kv_tokens == sum(ticket.cost.kv_tokens for ticket in running) <= 100
        assert policy.encoder_tokens == sum(ticket.cost.encoder_tokens for ticket in running) <= 50
        assert (policy.running, policy.waiting) == (len(running), len(waiting))
        assert len(running) <= 4
        assert len(waiting) <= 6
        assert running or not waiting
    for ticket in tickets:
        clock.leave(ticket)
    assert (clock.admission.running, clock.admission.kv_tokens, clock.admission.waiting) == (0, 0, 0)


# --- waiting for a turn ---


class Slow:
    """An application that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        await self.go.wait()
        await JSONResponse({})(scope, receive, send)


class Client:
    """One request as uvicorn hands it to an application, its body on the way where it is None; `leaves` ends it."""

    def __init__(self, key: str = "", kv: int = 60, body: bytes | None = b"{}") -> None:
        self.scope: Scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        facts(self.scope).key = key
        facts(self.scope).cost = Cost(kv)
        self.answers: list[Message] = []
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        if body is not None:
            self._messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

    def leaves(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    def asks(self, app: Any) -> "asyncio.Task[None]":
        async def send(message: Message) -> None:
            self.answers.append(message)

        return asyncio.create_task(app(self.scope, self._messages.get, send))

    @property
    def status(self) -> int | None:
        return self.answers[0]["status"] if self.answers else None


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_request_that_waits_is_served_when_another_is_done_and_one_that_leaves_never() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(CAPACITY)
        app = Turn(slow, admission, timeout_s=60)
        clients = [Client() for _ in range(3)]
        tasks = [client.asks(app) for client in clients]
        await settle()
        assert (slow.begun, admission.waiting) == (1, 2)
        clients[1].leaves()
        await settle()
        assert (admission.waiting, tasks[1].done(), clients[1].answers) == (1, True, [])
        slow.go.set()
        await asyncio.gather(*tasks)
        assert (slow.begun, clients[0].status, clients[2].status) == (2, 200, 200)
        assert (admission.running, admission.kv_tokens) == (0, 0)

    asyncio.run(run())


def test_who_waits_too_long_or_finds_the_queue_full_is_told_when_to_come_back() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(CAPACITY)
        app = Turn(slow, admission, timeout_s=0.05)
        clients = [Client() for _ in range(8)]
        tasks = [client.asks(app) for client in clients]
        await settle()
        assert clients[7].status == 429  # one runs, six wait
        await asyncio.wait(tasks[1:], timeout=5)
        assert [client.status for client in clients] == [None] + [429] * 7
        assert [b'"queue_timeout"' in client.answers[1]["body"] for client in (clients[3], clients[7])] == [True, False]
        headers = dict(clients[3].answers[0]["headers"])
        assert 1 <= int(headers[b"retry-after"]) <= 60
        slow.go.set()
        await tasks[0]
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(run())


def test_who_waits_for_an_engine_that_has_died_is_told_so_and_not_that_there_is_too_much_to_do() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(CAPACITY)
        gone = refuse(503, "The engine is started again.", code="not_ready", headers={"Retry-After": "40"})
        app = Turn(slow, admission, timeout_s=60, closed=lambda: gone)
        clients = [Client() for _ in range(4)]
        tasks = [client.asks(app) for client in clients]
        await settle()
        admission.turn_away()
        await asyncio.gather(*tasks[1:])
        assert [client.status for client in clients] == [None, 503, 503, 503]
        assert (admission.running, admission.waiting) == (1, 0)
        slow.go.set()
        await tasks[0]

    asyncio.run(run())


def test_what_costs_nothing_does_not_wait() -> None:
    app = Turn(Recorder(), Admission(Capacity(0, 0, 0, 0)), timeout_s=1)
    assert request(app, "GET", "/v1/models").status_code == 200


def test_a_request_is_refused_before_its_body_is_read_when_the_queue_is_full() -> None:
    admission = Admission(Capacity(10, 0, 1, 1))
    gate = Gate(Recorder(), admission, 2**20)
    message = {"type": "http.request", "body": b"{}"}
    assert by_hand(gate, {}, message)[0][0]["status"] == 200
    tickets = [admission.enter("", Cost(10), lambda _: None, 0.0) for _ in range(2)]
    answers, asked = by_hand(gate, {}, message)
    assert (answers[0]["status"], asked) == (429, 0)
    assert by_hand(gate, {"path": "/v1/models"}, message)[0][0]["status"] == 200
    for ticket in tickets:
        assert isinstance(ticket, Ticket)
        admission.leave(ticket, 1.0)
    assert by_hand(gate, {}, message)[0][0]["status"] == 200


def test_the_bodies_that_are_held_are_bounded_whatever_they_declare() -> None:
    async def run() -> list[int | None]:
        slow = Slow()
        gate = Gate(slow, Admission(CAPACITY), 2**20)
        clients = [Client() for _ in range(12)]
        tasks = [client.asks(gate) for client in clients]
        await settle()
        statuses = [client.status for client in clients]
        slow.go.set()
        await asyncio.gather(*tasks)
        return statuses

    assert asyncio.run(run()) == [None] * 8 + [429] * 4


def test_a_length_that_nobody_would_be_let_send_keeps_nobody_out() -> None:
    """What comes of the body is taken in for a second, so that its client reads the refusal: the others need not wait."""

    async def run() -> list[int | None]:
        app = Early(Gate(Body(Slow(), 2**20), Admission(CAPACITY), 2**20))
        liar, honest = Client(body=None), Client()
        liar.scope["headers"] = [(b"content-length", str(2**40).encode())]
        tasks = [liar.asks(app)]
        await settle()
        tasks.append(honest.asks(app))
        await settle()
        statuses = [liar.status, honest.status]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return statuses

    assert asyncio.run(run()) == [413, None]  # the second is being served


# --- quotas ---


def test_usage_is_counted_by_the_minute_and_the_day_and_outlives_a_restart(tmp_path: Path) -> None:
    usage = Usage(tmp_path / "usage.json")
    noon = 1_700_000_000.0 // 86_400 * 86_400 + 43_200
    usage.add("alice", noon, requests=1, tokens=70)
    usage.add("alice", noon + 59, requests=1, tokens=20)
    usage.save()
    again = Usage(tmp_path / "usage.json")
    again.load()
    limits = {"requests/minute": 2, "tokens/minute": 100, "tokens/day": 80}
    standings = {each.quota: (each.left, each.resets_s) for each in again.standings("alice", limits, noon + 59)}
    assert standings == {"requests/minute": (0, 1), "tokens/minute": (10, 1), "tokens/day": (0, 43_141)}
    later = {each.quota: each.left for each in again.standings("alice", limits, noon + 61)}
    assert later == {"requests/minute": 2, "tokens/minute": 100, "tokens/day": 0}
    assert [each.left for each in again.standings("bob", limits, noon)] == [2, 100, 80]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"alice": 5}', '{"alice": {"tokens/day": [1, 2, 3]}}'])
def test_a_usage_file_that_is_broken_is_no_hindrance(tmp_path: Path, content: str) -> None:
    (tmp_path / "usage.json").write_text(content)
    usage = Usage(tmp_path / "usage.json")
    usage.load()
    usage.add("alice", 0.0, requests=1)
    assert usage.standings("alice", {"requests/day": 5}, 0.0)[0].left == 4


class Keyed:
    """A quota layer for one key over an application that answers as vLLM does."""

    def __init__(self, tmp_path: Path, quotas: str, *, breaks_off: bool = False) -> None:
        (tmp_path / "keys").write_text(f"alice:one {quotas}")
        self._breaks_off = breaks_off
        self.quota = Quota(self._vllm, KeyRing(tmp_path / "keys"), Usage())

    async def _vllm(self, scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope).cost = Cost(100, 0, prompt_tokens=7)
        if self._breaks_off:
            events = (f"data: {json.dumps({'token': i})}\n\n" for i in range(5))
            await StreamingResponse(events)(scope, receive, send)
        else:  # of a stream, an event may be many tokens, and its usage is told to whoever asks for it
            used = SimpleNamespace(prompt_tokens=8, completion_tokens=12)
            Request(scope).state.request_metadata = SimpleNamespace(final_usage_info=used)
            await StreamingResponse(iter(["data: twelve tokens\n\n"]))(scope, receive, send)

    def ask(self, path: str = CHAT) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self.quota({**scope, "onecard": Facts("alice")}, receive, send)

        return request(app, "POST", path)


def test_a_key_is_refused_when_its_requests_are_used_up_and_the_headers_count_down(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, "requests/day=2 requests/minute=100")
    left = [keyed.ask().headers["x-ratelimit-remaining-requests"] for _ in range(2)]
    assert left == ["1", "0"]
    reply = keyed.ask()
    assert (reply.status_code, error_of(reply)["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(reply.headers["retry-after"]) <= 86_400
    assert reply.headers["x-ratelimit-limit-requests"] == "2"
    assert keyed.ask("/v1/models").status_code == 200


@pytest.mark.parametrize(("breaks_off", "each"), [(False, 20), (True, 12)])
def test_tokens_are_counted_as_vllm_does_and_of_a_broken_off_stream_by_its_events(
    tmp_path: Path, breaks_off: bool, each: int
) -> None:
    keyed = Keyed(tmp_path, "tokens/day=30", breaks_off=breaks_off)
    assert keyed.ask().headers["x-ratelimit-remaining-tokens"] == "30"
    assert keyed.ask().headers["x-ratelimit-remaining-tokens"] == str(30 - each)
    statuses = [keyed.ask().status_code for _ in range(2)]
    assert statuses[-1] == 429


def test_a_key_without_quotas_and_no_key_at_all_are_not_counted(tmp_path: Path) -> None:
    reply = Keyed(tmp_path, "").ask()
    assert (reply.status_code, [name for name in reply.headers if name.startswith("x-ratelimit")]) == (200, [])
    assert request(Quota(Recorder(), KeyRing(None), Usage()), "POST", CHAT).status_code == 200


def test_one_key_has_less_of_a_cpu_than_of_a_gpu_since_there_each_answer_slows_down_all() -> None:
    cpu = capacity_of(prepare("cpu", "demo", gpu_memory_mib=8192).plan)
    gpu = capacity_of(prepare("rtx3060", "demo", gpu_memory_mib=12_288).plan)
    assert 0 < cpu.share < gpu.share < 1
