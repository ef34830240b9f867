"""The whole guard before an application that answers as vLLM does: what a client meets from the start to an answer."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from serving.guard.ask import DEFAULT_QUESTION
from serving.guard.stack import Guard
from serving.ipc import control
from serving.ipc.launch import ENVIRONMENT_KEY, Launch
from serving.prepare import prepare
from tests.asgi import CHAT, Recorder, error_of, request, sent
from tests.drawing import blank, encoded

QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


class Vllm:
    """The part of vLLM's API that the guard and the warm-up use; `answer` makes the reply to a chat request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.refuses: tuple[int, Any] | None = None
        self.raises_after: int | None = None
        self.streams: list[bytes] = []

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        if self.raises_after is not None:
            self.raises_after -= 1
            if self.raises_after < 0:
                raise RuntimeError("a defect")
        if self.refuses:
            return JSONResponse(self.refuses[1], self.refuses[0])
        if self.streams:
            return StreamingResponse(iter(self.streams), media_type="text/event-stream")
        answer = {"choices": [{"message": {"content": "A red circle. 红色的圆形。"}}], "usage": {"prompt_tokens": 20}}
        return JSONResponse(answer)

    async def models(self, _request: Request) -> Response:
        return JSONResponse({"data": [{"id": "onecard-demo"}]})

    async def metrics(self, _request: Request) -> Response:
        return PlainTextResponse("vllm:num_requests_running 0\n")

    def guarded(self) -> Starlette:
        routes = [
            Route(CHAT, self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/metrics", self.metrics),
            Route("/tokenize", self.models, methods=["GET", "POST"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Guard)])


@pytest.fixture
def control_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What the supervisor would read; the descriptor is its end."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    monkeypatch.setenv(control.ENVIRONMENT_KEY, str(write_end))
    yield read_end
    os.close(read_end)
    os.close(write_end)


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """A start of the built-in model on the CPU, as the supervisor writes it down for the server process."""
    plan = prepare("cpu", "demo", gpu_memory_mib=8192).plan
    made = Launch(
        plan=plan, model_folder=tmp_path, default_max_tokens=256, host="127.0.0.1", port=8123, run_dir=tmp_path
    )
    monkeypatch.setenv(ENVIRONMENT_KEY, str(made.write()))
    return made


@asynccontextmanager
async def started(app: ASGIApp) -> AsyncIterator[None]:
    """Runs the application's lifespan around the block, as uvicorn does."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    to_server: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}

    async def live() -> None:
        await app(scope, to_app.get, to_server.put)

    task = asyncio.create_task(live())
    await to_app.put({"type": "lifespan.startup"})
    assert (await to_server.get())["type"] == "lifespan.startup.complete"
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    await task


async def until_ready(app: ASGIApp) -> None:
    for _ in range(500):
        if (await sent(app, "GET", "/ready")).status_code == 200:
            return
        await asyncio.sleep(0.01)
    pytest.fail("not ready after the warm-up")


def when_ready(vllm: Vllm, ask: Callable[[ASGIApp], Awaitable[httpx.Response]]) -> httpx.Response:
    """The answer to one request after a start; the warm-up's own requests are taken off `vllm.requests`."""

    async def run() -> httpx.Response:
        app = vllm.guarded()
        async with started(app):
            await until_ready(app)
            vllm.requests.clear()
            return await ask(app)

    return asyncio.run(run())


def events(control_pipe: int) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in os.read(control_pipe, 65_536).splitlines()]
    return [event for event in told if event["event"] != "beat"]


@pytest.mark.usefixtures("launch")
def test_ready_comes_after_a_text_and_a_picture_were_answered(control_pipe: int) -> None:
    vllm = Vllm()

    async def run() -> tuple[int, int, dict[str, Any]]:
        app = vllm.guarded()
        before = (await sent(app, "GET", "/ready")).status_code
        async with started(app):
            await until_ready(app)
            return (
                before,
                (await sent(app, "GET", "/health")).status_code,
                (await sent(app, "GET", "/onecard/status")).json(),
            )

    before, health, status = asyncio.run(run())
    assert (before, health, status["state"]) == (503, 200, "ready")
    kinds = [[part["type"] for part in body["messages"][0]["content"]] for body in vllm.requests]
    assert kinds == [["text"], ["image_url", "text"]]
    listening, ready = events(control_pipe)
    assert (listening["event"], ready["event"]) == ("listening", "ready")
    assert set(ready["measured"]) == {"warmup_text_s", "warmup_image_s"} <= set(status["measured"])


@pytest.mark.usefixtures("launch")
def test_a_server_that_cannot_answer_is_never_ready_and_says_why(control_pipe: int) -> None:
    vllm = Vllm()
    vllm.refuses = (500, {"error": {"message": "EngineCore encountered an issue"}})

    async def run() -> list[int]:
        app = vllm.guarded()
        async with started(app):
            await asyncio.sleep(0.2)
            return [(await sent(app, "GET", path)).status_code for path in ("/ready", "/health", "/v1/models")]

    assert asyncio.run(run()) == [503, 200, 503]
    listening, failed = events(control_pipe)
    assert (listening["event"], failed["event"]) == ("listening", "failed")
    assert "EngineCore encountered an issue" in failed["reason"]


def test_before_the_warm_up_is_done_requests_are_told_to_wait(launch: Launch) -> None:
    app = Vllm().guarded()
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("POST", "/ask")):
        reply = request(app, method, path)
        assert reply.status_code == 503, path
        assert int(reply.headers["retry-after"]) >= 1
        assert "warming" in error_of(reply)["message"]
    assert request(app, "GET", "/metrics").status_code == 200
    status = request(app, "GET", "/onecard/status").json()
    assert (status["state"], status["step"], status["url"]) == ("warming", "warmup", launch.url)
    assert status["plan"] == json.loads(launch.plan.model_dump_json())
    assert status["queue"] == {"running": 0, "waiting": 0}


@pytest.mark.usefixtures("launch")
def test_what_vllm_offers_beside_the_routes_is_not_reached() -> None:
    vllm = Vllm()
    assert when_ready(vllm, lambda app: sent(app, "POST", "/tokenize")).status_code == 404
    assert when_ready(vllm, lambda app: sent(app, "GET", "/v1/models")).json()["data"][0]["id"] == "onecard-demo"


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize(("name", "status"), [("demo", 200), ("Qwen/other", 404), ("demo/", 404), ("", 404)])
def test_a_model_is_found_by_its_name(name: str, status: int) -> None:
    reply = when_ready(Vllm(), lambda app: sent(app, "GET", f"/v1/models/{name}"))
    assert reply.status_code == status
    assert reply.json()["id"] == "demo" if status == 200 else error_of(reply)["type"] == "not_found_error"


@pytest.mark.usefixtures("launch")
def test_with_a_key_only_the_probes_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECARD_API_KEY", "secret")
    for path, status in {
        "/health": 200,
        "/ready": 200,
        "/v1/models": 401,
        "/metrics": 401,
        "/onecard/status": 401,
        "/x": 401,
    }.items():
        assert when_ready(Vllm(), lambda app, path=path: sent(app, "GET", path)).status_code == status, path  # type: ignore[misc]
    header = {"Authorization": "Bearer secret"}
    assert when_ready(Vllm(), lambda app: sent(app, "GET", "/v1/models", headers=header)).status_code == 200


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize(
    ("data", "question"),
    [({}, DEFAULT_QUESTION), ({"question": "几个圆形？"}, "几个圆形？"), ({"question": ""}, DEFAULT_QUESTION)],
)
def test_a_form_becomes_a_chat_request_with_the_same_picture(data: dict[str, str], question: str) -> None:
    vllm, picture = Vllm(), encoded(blank())
    reply = when_ready(vllm, lambda app: sent(app, "POST", "/ask", files={"image": ("photo.jpg", picture)}, data=data))
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"response", "time_taken", "success"}
    assert (body["response"], body["success"]) == ("A red circle. 红色的圆形。", True)
    (asked,) = vllm.requests
    image, text = asked["messages"][0]["content"]
    assert base64.b64decode(image["image_url"]["url"].partition("base64,")[2]) == picture
    assert (text["text"], asked["model"], asked["max_tokens"]) == (question, "onecard-demo", 256)


@pytest.mark.usefixtures("launch")
def test_the_log_says_how_many_pictures_were_asked_about(lines: list[str]) -> None:
    picture = encoded(blank())
    part = {"type": "image_url", "image_url": {"url": "data:;base64," + base64.b64encode(picture).decode()}}
    body = {"messages": [{"role": "user", "content": [part, part]}]}

    async def ask(app: ASGIApp) -> httpx.Response:
        await sent(app, "POST", CHAT, json=body)
        return await sent(app, "POST", "/ask", files={"image": picture})

    when_ready(Vllm(), ask)
    chat, form = (line for line in lines if " POST " in line)
    assert ("2 pictures" in chat, "1 picture" in form) == (True, True)


_FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": {"question": "x"}}, 415),
        ({"json": {"image": "x"}}, 415),
        ({}, 415),
        ({"files": {"picture": b"x"}}, 400),
        ({"files": {"image": b"x", "second": b"y"}}, 400),
        ({"files": {"image": b"x"}, "data": {"question": "?" * 2_000_000}}, 400),
        ({"content": b"--y\r\nbroken", "headers": _FORM}, 400),
        ({"content": b"", "headers": _FORM}, 400),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_in_words(options: dict[str, Any], status: int) -> None:
    vllm = Vllm()
    reply = when_ready(vllm, lambda app: sent(app, "POST", "/ask", **options))
    assert (reply.status_code, error_of(reply)["param"]) == (status, "image" if status == 400 else None)
    assert vllm.requests == []


@pytest.mark.usefixtures("launch")
def test_what_vllm_refuses_of_a_form_is_passed_on() -> None:
    vllm = Vllm()

    async def ask(app: ASGIApp) -> httpx.Response:
        vllm.refuses = (400, {"error": {"message": "cannot identify image file"}})
        return await sent(app, "POST", "/ask", files={"image": encoded(blank())})

    reply = when_ready(vllm, ask)
    assert (reply.status_code, error_of(reply)["message"]) == (400, "cannot identify image file")


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize(
    ("answered", "status"),
    [
        ((400, {"error": {"message": "no", "type": "BadRequestError", "param": "stop", "code": 400}}), 400),
        ((422, {"detail": [{"loc": ["body"], "msg": "no"}]}), 422),
        ((501, {"error": {"message": "no", "code": 501}}), 400),
        ((500, {"error": {"message": "EngineCore at /srv/model died", "code": 500}}), 500),
        ((503, {"error": {"message": "queue of 10", "code": 503}}), 503),
        ((404, ["no"]), 404),
    ],
)
def test_errors_of_vllm_are_in_openais_shape_and_show_nothing_from_inside(
    answered: tuple[int, Any], status: int
) -> None:
    vllm = Vllm()

    async def ask(app: ASGIApp) -> httpx.Response:
        vllm.refuses = answered
        return await sent(app, "POST", CHAT, json=QUESTION)

    reply = when_ready(vllm, ask)
    assert reply.status_code == status
    error = error_of(reply)
    assert error["type"] in ("invalid_request_error", "not_found_error", "server_error")
    assert "/srv" not in error["message"]
    assert ("retry-after" in reply.headers) == (status == 503)


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize(
    ("message", "param", "said"),
    [
        (
            "2 validation errors:\n  {'type': 'literal_error', 'loc': 'body.messages.0.SomeParam.role', 'msg': "
            "\"Input should be 'user'\", 'input': 'x', 'ctx': {'expected': \"'user'\"}}\n  {'type': 'string_type', "
            "'loc': 'body.stop', 'msg': 'Input should be a valid string', 'input': 5}",
            "body.stop",
            ("stop", None, "`stop`: Input should be a valid string; `messages.0.role`: Input should be 'user'."),
        ),
        (
            "1 validation error for SomeParam\nimage_url.detail\n  Input should be 'auto' or 'low' [type=literal_error, "
            "input_value='x', input_type=str]\n    For further information visit https://errors.pydantic.dev/",
            None,
            (None, None, "`image_url.detail`: Input should be 'auto' or 'low'."),
        ),
        ("No. (parameter=top_p, value=0.0)", "top_p", ("top_p", None, "No.")),
        (
            "Too long. (parameter=input_tokens)",
            "input_tokens",
            ("input_tokens", "context_length_exceeded", "Too long."),
        ),
        ("Broken.", "image_url", ("image_url", "invalid_image", "Broken.")),
    ],
)
def test_what_vllm_refuses_is_said_in_words(message: str, param: str | None, said: tuple[str | None, ...]) -> None:
    vllm = Vllm()

    async def ask(app: ASGIApp) -> httpx.Response:
        vllm.refuses = (400, {"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}})
        return await sent(app, "POST", CHAT, json=QUESTION)

    error = error_of(when_ready(vllm, ask))
    assert (error["param"], error["code"], error["message"]) == said


_TOKEN, _END = b'data: {"id": "1"}\n\n', b"data: [DONE]\n\n"


def _event(code: int) -> bytes:
    error = {"message": "Grammar error", "type": "BadRequestError", "param": None, "code": code}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize("status", [400, 500])
def test_a_stream_that_fails_before_its_first_token_is_an_answer_with_that_status(status: int) -> None:
    vllm = Vllm()

    async def ask(app: ASGIApp) -> httpx.Response:
        vllm.streams = [_event(status), _END]
        return await sent(app, "POST", CHAT, json=QUESTION | {"stream": True})

    reply = when_ready(vllm, ask)
    assert reply.status_code == status
    assert error_of(reply)["type"] == ("invalid_request_error" if status == 400 else "server_error")


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize("events", [[_TOKEN, _END], [_TOKEN, _event(500), _END], [b""]])
def test_a_stream_that_has_begun_passes_as_it_is(events: list[bytes]) -> None:
    vllm = Vllm()

    async def ask(app: ASGIApp) -> httpx.Response:
        vllm.streams = events
        return await sent(app, "POST", CHAT, json=QUESTION | {"stream": True})

    reply = when_ready(vllm, ask)
    assert (reply.status_code, reply.content) == (200, b"".join(events))


@pytest.mark.usefixtures("launch")
def test_what_vllm_raises_is_an_answer_too() -> None:
    vllm = Vllm()
    vllm.raises_after = 2  # the warm-up's two requests

    reply = when_ready(vllm, lambda app: sent(app, "POST", CHAT, json=QUESTION))
    assert (reply.status_code, error_of(reply)["code"]) == (500, "internal")


def test_a_form_over_the_limit_is_refused(launch: Launch) -> None:
    large = b"x" * (launch.plan.limits.max_body_mib * 2**20)
    reply = when_ready(Vllm(), lambda app: sent(app, "POST", "/ask", files={"image": large}))
    assert reply.status_code == 413


def test_the_guard_is_of_no_use_without_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_KEY, raising=False)
    with pytest.raises(RuntimeError, match="onecard serve"):
        Guard(Recorder())
