"""`onecard ask` against a real port: the answer as it streams, and everything that can cut it short."""

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from clients.cli import Options, ask
from serving.errors import NotRunningError, OnecardError, UsageError
from serving.machine.port import free_port
from serving.machine.running import client_errors
from tests import drawing
from tests.conftest import ONECARD
from tests.listening import listening


@pytest.fixture(autouse=True)
def no_key_and_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is one that would swallow what is meant for loopback."""
    monkeypatch.delenv("ONECARD_API_KEY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


def chunk(text: str | None = None, **more: Any) -> str:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    body = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": choices} | more
    return f"data: {json.dumps(body)}\n\n"


USAGE = chunk(usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12})


class Chat:
    """A server that streams the given events; what it was asked is in `requests`, with which key in `keys`."""

    def __init__(self, *events: str, breaks: bool = False) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self._events, self._breaks = events, breaks
        routes = [Route("/v1/models", self._models), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]})

    async def _chat(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.keys.append(request.headers["authorization"])
        if not self._events:
            return JSONResponse({"error": {"message": "6 pictures; this profile takes 4"}}, 400)
        if self._breaks:
            return _CutOff("".join(self._events), media_type="text/event-stream")
        return Response("".join(self._events) + "data: [DONE]\n\n", media_type="text/event-stream")


class _CutOff(Response):
    """The connection ends in the middle of the body, as when the server process is killed."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})


@pytest.fixture
def photo(tmp_path: Path) -> str:
    file = tmp_path / "photo.png"
    file.write_bytes(drawing.encoded(drawing.blank(32, 32)))
    return str(file)


def asked(chat: Chat, *images: str, max_tokens: int | None = None) -> None:
    """What `onecard ask` does, with its refusals."""
    with listening(chat.app) as port, client_errors(url := f"http://127.0.0.1:{port}"):
        ask(list(images), "What?", url, Options(max_tokens))


def test_an_answer_streams_in_and_ends_with_its_speed(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(chunk("A red "), chunk("circle."), USAGE)
    asked(chat, photo, photo, max_tokens=7)
    out, err = capsys.readouterr()
    assert out == "A red circle.\n"
    assert err.startswith("[first token after 0.")
    assert re.fullmatch(r"\[first token after 0\.\d\d s, \d+ tokens/s in all\]\n", err)  # it came in one piece
    (request,) = chat.requests
    assert (request["model"], request["max_completion_tokens"], request["stream"]) == ("m", 7, True)
    kinds = [part["type"] for part in request["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "text"]
    assert request["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_an_empty_answer_is_said_to_be_one(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked(Chat(chunk(""), USAGE), photo)
    assert capsys.readouterr().err == "[the answer is empty]\n"


def test_the_key_of_the_environment_is_sent(photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECARD_API_KEY", "secret")
    chat = Chat(chunk("x"), USAGE)
    asked(chat, photo)
    assert chat.keys == ["Bearer secret"]


def test_a_picture_may_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(drawing.encoded(drawing.blank(32, 32), "JPEG"))))
    chat = Chat(chunk("x"), USAGE)
    asked(chat, "-")
    assert chat.requests[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_picture_may_be_a_data_url_longer_than_a_files_name_can_be() -> None:
    chat = Chat(chunk("x"), USAGE)
    noise = io.BytesIO()
    Image.effect_noise((100, 100), 90).save(noise, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(noise.getvalue()).decode()}"
    assert len(url) > os.pathconf("/", "PC_PATH_MAX")
    asked(chat, url)
    assert chat.requests[0]["messages"][0]["content"][0]["image_url"]["url"] == url


def test_a_refusal_of_the_server_is_given_in_its_words(photo: str) -> None:
    with pytest.raises(OnecardError, match=r"refused \(400\): .*this profile takes 4"):
        asked(Chat(), photo)


@pytest.mark.parametrize("listed", [[], None])
def test_a_server_without_a_model_is_told(photo: str, listed: list[Any] | None) -> None:
    async def models(_request: Request) -> Response:
        return JSONResponse({"object": "list", "data": listed})

    chat = Chat(chunk("x"))
    chat.app = Starlette(routes=[Route("/v1/models", models)])
    with pytest.raises(OnecardError, match="serves no model"):
        asked(chat, photo)


def test_an_answer_that_breaks_off_is_said_to(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The server process was killed, or the engine under it."""
    with pytest.raises(OnecardError, match=r"The answer broke off \(peer closed"):
        asked(Chat(chunk("A red "), breaks=True), photo)
    with pytest.raises(OnecardError, match=r"The answer broke off \(EngineCore"):
        asked(Chat(chunk("A red "), 'data: {"error": {"message": "EngineCore encountered an issue"}}\n\n'), photo)
    assert capsys.readouterr().out == "A red A red "


def test_an_answer_that_cannot_be_written_is_told_and_one_that_is_enough_ends_quietly(photo: str) -> None:
    with listening(Chat(*[chunk("word ")] * 3000, USAGE).app) as port:
        command = f"{shlex.join(ONECARD)} ask {photo} 'What?' --port {port}"
        full, enough = (
            subprocess.run(["bash", "-o", "pipefail", "-c", f"{command} {to}"], capture_output=True, text=True)
            for to in (">/dev/full", "| head -c 3")
        )
    assert (full.returncode, full.stderr) == (1, "onecard: Reading or writing failed: No space left on device.\n")
    assert (enough.stdout, enough.stderr) == ("wor", "")


def test_asking_nobody_or_with_a_picture_that_is_not_there(photo: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NotRunningError, match=f"No server answers at {url}"), client_errors(url):
        ask([photo], "What?", url, Options())
    for name, says in (("none.png", "No such file"), (".", "directory")):
        with pytest.raises(UsageError, match=f"cannot be read: .*{says}"), client_errors(url):
            ask([str(tmp_path / name)], "What?", url, Options())
