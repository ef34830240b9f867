"""The outermost layer before applications that answer, refuse, break off and are left: what it returns and records."""

import asyncio
import json
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.measure import Measure
from serving.guard.respond import refuse
from serving.metrics.request import RequestNotes, notes_of
from serving.metrics.request_log import Line
from tests.asgi import CHAT, Recorder, by_hand, request

USAGE = {"prompt_tokens": 800, "total_tokens": 864, "completion_tokens": 64, "prompt_tokens_details": None}
# A text that speaks of usage must not be taken for it.
TRAP = 'He wrote "usage":{"prompt_tokens":1,"completion_tokens":2} and "finish_reason":"length".'


def answer(finish: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": TRAP}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": USAGE}


class Answers:
    """An application that answers every request with that response, under the name of a key, and notes what it took as vLLM
    does."""

    def __init__(self, response: Response, key: str = "alice") -> None:
        self.response, self.key = response, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        notes_of({**scope}).key = self.key
        await self.response(scope, receive, send)
        Request(scope).state.request_metadata = SimpleNamespace(final_usage_info=SimpleNamespace(**USAGE))


class Difference:
    """How much a sample of the process's registry has grown since."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return self._now().get(key, 0) - self._before.get(key, 0)


@pytest.fixture
def grown() -> Difference:
    return Difference()


def test_an_answer_is_measured_and_passed_on_unchanged(grown: Difference, lines: list[str]) -> None:
    reply = request(Measure(Answers(JSONResponse(answer()))), "POST", CHAT, json={})
    assert reply.json() == answer()
    labels = {"route": CHAT, "key": "alice", "outcome": "answered", "reason": "none"}
    assert grown("onecard_requests_total", **labels) == 1
    assert grown("onecard_request_seconds_count", route=CHAT) == 1
    assert grown("onecard_tokens_total", kind="prompt", key="alice") == 800
    assert grown("onecard_tokens_total", kind="answer", key="alice") == 64
    assert grown("onecard_answers_total", finish="stop") == 1
    assert grown("onecard_answers_total", finish="length") == 0
    # Not streamed: its first byte is the whole answer, and says nothing of the first token.
    assert grown("onecard_first_token_seconds_count", route=CHAT) == 0
    assert len(lines) == 1
    assert "800 + 64 tokens, stop" in lines[0]


def test_a_line_says_nothing_of_an_end_that_its_answer_does_not_name() -> None:
    """As that of `/ask`."""
    notes = RequestNotes("4f1c", prompt_tokens=96, answer_tokens=4)
    assert "tokens  id=" in Line("POST", "/ask", 200, "answered", "none", 0.1, None, notes).as_text()


def test_a_stream_gives_first_token_and_speed_as_its_pieces_come(grown: Difference) -> None:
    async def events() -> Any:
        yield 'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
        await asyncio.sleep(0.05)
        yield 'data: {"choices":[{"delta":{"content":"A"},"finish_reason":"length"}]}\n\n'
        yield "data: [DONE]\n\n"

    reply = request(Measure(Answers(StreamingResponse(events(), media_type="text/event-stream"))), "POST", CHAT)
    assert reply.text.endswith("data: [DONE]\n\n")
    assert grown("onecard_first_token_seconds_count", route=CHAT) == 1
    assert grown("onecard_first_token_seconds_sum", route=CHAT) < grown("onecard_request_seconds_sum", route=CHAT)
    # Nobody asked for its usage.
    assert grown("onecard_tokens_total", kind="answer", key="alice") == 64
    assert grown("onecard_answer_tokens_per_second_count") == 1
    assert 0 < grown("onecard_answer_tokens_per_second_sum") < 63 / 0.05
    assert grown("onecard_answers_total", finish="length") == 1


@pytest.mark.parametrize(
    ("response", "outcome", "reason"),
    [
        (refuse(429, "Full.", code="queue_full", headers={"Retry-After": "7"}), "refused", "queue_full"),
        (refuse(503, "Wait.", code="not_ready", headers={"Retry-After": "7"}), "refused", "not_ready"),
        (JSONResponse({"error": {"message": "x", "code": 400}}, 400), "refused", "http_400"),
        (Response("broken", 500), "failed", "http_500"),
    ],
)
def test_a_refusal_is_counted_by_its_code(response: Response, outcome: str, reason: str, grown: Difference) -> None:
    reply = request(Measure(Answers(response)), "POST", CHAT)
    assert reply.headers["x-request-id"]
    assert grown("onecard_requests_total", route=CHAT, key="alice", outcome=outcome, reason=reason) == 1
    assert grown("onecard_request_seconds_count", route=CHAT) == 0
    assert grown("onecard_refusal_seconds_count", reason=reason) == (outcome == "refused")
    assert grown("onecard_retry_after_seconds_sum") == (7 if "retry-after" in reply.headers else 0)


def test_a_refusal_is_as_late_as_it_is_after_the_last_that_was_read_of_the_request(grown: Difference) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await refuse(400, "No.", code="just_no")(scope, receive, send)

    async def slow() -> Any:
        await asyncio.sleep(0.2)
        yield b"x"

    began = time.monotonic()
    request(Measure(refuses), "POST", CHAT, content=slow())
    assert 0 < grown("onecard_refusal_seconds_sum", reason="just_no") < time.monotonic() - began - 0.2


def test_an_application_that_raises_has_failed(grown: Difference) -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise OSError("the engine is gone")

    with pytest.raises(OSError, match="engine"):
        request(Measure(broken), "POST", CHAT)
    assert grown("onecard_requests_total", route=CHAT, key="none", outcome="failed", reason="broken_off") == 1
    assert grown("onecard_requests_in_flight") == 0


def test_a_client_that_goes_away_in_the_middle_has_left(grown: Difference) -> None:
    async def half(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    by_hand(Measure(half), {"path": CHAT}, {"type": "http.disconnect"})
    assert grown("onecard_requests_total", route=CHAT, key="none", outcome="left", reason="none") == 1


def test_while_a_request_runs_it_is_in_flight_and_a_probe_is_not(grown: Difference) -> None:
    seen: list[float] = []

    async def looks(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(grown("onecard_requests_in_flight"))
        await Response("ok")(scope, receive, send)

    request(Measure(looks), "POST", CHAT)
    request(Measure(looks), "GET", "/ready")
    assert (seen, grown("onecard_requests_in_flight")) == ([1, 0], 0)


def test_paths_that_clients_invent_are_one_route(grown: Difference, lines: list[str]) -> None:
    for path in ("/wp-login.php", "/v1/chat/completions/", "/%00"):
        request(Measure(Answers(refuse(404, "No.", code="not_found"))), "GET", path)
    labels = {"route": "other", "key": "alice", "outcome": "refused", "reason": "not_found"}
    assert grown("onecard_requests_total", **labels) == 3
    assert not any("wp-login" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-request.7_a", True), ("", False), ("x" * 65, False), ("two words", False), ('"quote', False)],
)
def test_the_requests_id_is_taken_or_made_handed_down_and_returned(given: str, kept: bool) -> None:
    below = Recorder()
    reply = request(Measure(below), "POST", CHAT, headers={"X-Request-Id": given})
    returned = reply.headers.get_list("x-request-id")
    assert len(returned) == 1
    assert dict(below.scopes[0]["headers"])[b"x-request-id"].decode() == returned[0]
    assert (returned[0] == given) is kept
    assert re.fullmatch(r"[A-Za-z0-9._-]+", returned[0])


def test_an_id_of_an_application_below_does_not_stand_twice() -> None:
    below = Answers(Response("x", headers={"X-Request-Id": "vllms-own", "Set-Cookie": "a=b"}))
    reply = request(Measure(below), "GET", "/v1/models", headers={"X-Request-Id": "mine"})
    assert reply.headers.get_list("x-request-id") == ["mine"]
    assert reply.headers["set-cookie"] == "a=b"


SECRET = "a picture of my passport"


@pytest.mark.parametrize("style", ["json", "text"])
def test_the_log_has_one_line_a_request_and_nothing_of_what_was_said(
    style: str, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setenv("ONECARD_LOG_FORMAT", style)
    body = answer() | {"choices": [{"message": {"content": SECRET}, "finish_reason": "stop"}]}
    header = {"Authorization": f"Bearer {SECRET}", "X-Request-Id": "r-1"}
    app: ASGIApp = Measure(Answers(JSONResponse(body)))
    request(app, "POST", f"{CHAT}?q={SECRET}", json={"messages": [{"content": SECRET}]}, headers=header)
    request(app, "GET", "/metrics")
    (line,) = lines
    assert SECRET not in line
    assert "\n" not in line
    assert "r-1" in line
    if style == "json":
        told = json.loads(line)
        assert (told["event"], told["status"], told["outcome"], told["key"]) == ("request", 200, "answered", "alice")
        assert (told["prompt_tokens"], told["answer_tokens"], told["finish"]) == (800, 64, "stop")


def test_other_protocols_pass_straight_through() -> None:
    reached: list[str] = []

    async def below(scope: Scope, _receive: Receive, _send: Send) -> None:
        reached.append(scope["type"])

    async def run() -> None:
        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(_message: Message) -> None: ...

        await Measure(below)({"type": "lifespan"}, receive, send)

    asyncio.run(run())
    assert reached == ["lifespan"]
