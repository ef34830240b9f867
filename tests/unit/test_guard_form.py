"""`POST /ask` where it meets the layers below: a question from a form waits, is refused and is given up as any other."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.admission import Admission, Capacity, Cost
from serving.guard.ask import Ask
from serving.guard.body import Body, replay, whole_body
from serving.guard.facts import facts
from serving.guard.gate import overloaded
from serving.guard.turn import Turn
from tests.asgi import error_of, request, sent

FORM = {"files": {"image": b"x"}, "data": {"question": "?"}}


class Engine:
    """Answers when it is let go; a client that leaves meanwhile is seen by what the connection says, as vLLM sees it."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = self.given_up = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        await whole_body(receive)
        going, leaving = asyncio.create_task(self.go.wait()), asyncio.ensure_future(receive())
        done, pending = await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        self.given_up += leaving in done
        await JSONResponse({"choices": [{"message": {"content": "red"}}]})(scope, receive, send)


def asking(below: ASGIApp, admission: Admission) -> ASGIApp:
    """The way of a form to an engine: it becomes a request of a known cost, which waits for its turn."""
    turn = Turn(below, admission, timeout_s=60)

    async def weighed(scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope).cost = Cost(10)
        await turn(scope, replay(await whole_body(receive), receive), send)

    return Body(Ask(weighed, "demo"), 2**20)


class Leaver:
    """A client that sends a form, and leaves when it is told to."""

    def __init__(self, app: ASGIApp) -> None:
        form = httpx.Request("POST", "http://localhost/ask", **FORM)  # type: ignore[arg-type]
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": form.read()})
        headers = [(name.lower(), value) for name, value in form.headers.raw]
        self.answers: list[Message] = []
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/ask", "headers": headers}
        self.task = asyncio.ensure_future(app(scope, self._messages.get, self._take))

    async def _take(self, message: Message) -> None:
        self.answers.append(message)

    async def leaves(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.task, 5)


async def until(reached: Any) -> None:
    async with asyncio.timeout(5):
        while not reached():
            await asyncio.sleep(0.001)


def test_a_form_waits_for_its_turn_and_is_answered() -> None:
    async def run() -> None:
        engine, admission = Engine(), Admission(Capacity(100, 100, 1, 8))
        app = asking(engine, admission)
        replies = [asyncio.create_task(sent(app, "POST", "/ask", **FORM)) for _ in range(3)]
        await until(lambda: admission.waiting == 2)
        engine.go.set()
        assert [(await reply).json()["response"] for reply in replies] == ["red"] * 3

    asyncio.run(run())


def test_who_leaves_ends_what_was_asked_in_the_queue_and_in_the_engine() -> None:
    async def run() -> None:
        engine, admission = Engine(), Admission(Capacity(100, 100, 1, 8))
        app = asking(engine, admission)
        served = Leaver(app)
        await until(lambda: engine.begun)
        waiting = Leaver(app)
        await until(lambda: admission.waiting)
        await waiting.leaves()
        assert (engine.begun, admission.waiting, waiting.answers) == (1, 0, [])
        await served.leaves()
        assert (engine.given_up, admission.running, served.answers) == (1, 0, [])
        assert asyncio.all_tasks() == {asyncio.current_task()}  # nobody listens on for who has left

    asyncio.run(run())


def test_a_form_that_is_refused_is_told_when_to_come_back() -> None:
    reply = request(Body(Ask(overloaded(7), "demo"), 2**20), "POST", "/ask", **FORM)
    assert (reply.status_code, reply.headers["retry-after"], error_of(reply)["code"]) == (429, "7", "overloaded")


TEXT = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
IMAGE = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n%s\r\n--x--\r\n'


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the question."""
    (message,) = json.loads(await whole_body(receive))["messages"]
    answer = {"message": {"content": message["content"][1]["text"]}}
    await JSONResponse({"choices": [answer]})(scope, receive, send)


def posted(charset: str, question: bytes, picture: bytes = b"x") -> httpx.Response:
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    form = TEXT % (b"question", question) + IMAGE % picture
    return request(Body(Ask(echo, "demo"), 2**23), "POST", "/ask", content=form, headers=headers)


@pytest.mark.parametrize(("charset", "question"), [("undefined", b"?"), ("unicode_escape", rb"\ud800")])
def test_a_question_that_is_no_text_is_refused(charset: str, question: bytes) -> None:
    reply = posted(charset, question)
    assert (reply.status_code, error_of(reply)["param"]) == (400, "question")


def test_a_question_in_another_charset_is_read() -> None:
    assert posted("gbk", "几个圆形？".encode("gbk")).json()["response"] == "几个圆形？"


def test_a_large_picture_needs_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    assert posted("utf-8", b"?", picture=bytes(3 * 2**20)).status_code == 200
