"""`onecard batch` against a server that answers at once: what is asked of it, and what must not end the run."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clients import Client
from clients.batch.run import Asked, run_batch
from tests import drawing
from tests.listening import listening


class Answering:
    """A server that answers every chat request, and refuses what has no messages; the bodies are in `asked`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        routes = [Route("/v1/models", self._models), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if not body["messages"]:
            return JSONResponse({"error": {"message": "`messages` must be a list."}}, 400)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "red"}}
        return JSONResponse(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": None}
        )


@pytest.fixture
def server() -> Iterator[tuple[Answering, str]]:
    answering = Answering()
    with listening(answering.app) as port:
        yield answering, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_name_that_is_not_utf8_is_of_the_batch(server: tuple[Answering, str], tmp_path: Path, kind: str) -> None:
    """As old archives leave them. The name stays what tells the picture from the others, in the next run too."""
    folder, out = tmp_path / "pictures", tmp_path / f"out.{kind}"
    folder.mkdir()
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(drawing.encoded(drawing.blank(32, 32)))
    done = run_batch(folder, out, server[1], Asked(prompt="?"))
    assert (done.total, done.failures) == (1, [])
    if kind == "csv":
        (row,) = csv.DictReader(out.read_text("utf-8").splitlines())
        assert row["id"] == r"caf\udce9.png"
    else:
        assert json.loads(out.read_text("utf-8"))["id"] == os.fsdecode(b"caf\xe9.png")
    assert run_batch(folder, out, server[1], Asked(prompt="?")).before == 1


def test_a_name_that_begins_with_a_tilde_is_a_file_like_any_other(
    server: tuple[Answering, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As temporary files are called. In the folder that one stands in, it is all of the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~a.png").write_bytes(drawing.encoded(drawing.blank(32, 32)))
    assert run_batch(Path(), Path("out.jsonl"), server[1], Asked(prompt="?")).failures == []


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "http://127.0.0.1:{}", "http://127.0.0.1:{}/v1/"])
def test_a_server_may_be_named_as_people_name_it(server: tuple[Answering, str], form: str) -> None:
    with Client(form.format(server[1].rpartition(":")[2])) as client:
        assert client.model == "m"


def test_a_request_of_openais_format_is_sent_as_it_stands(server: tuple[Answering, str], tmp_path: Path) -> None:
    """With what the server knows and the SDK does not; one that is no request fails alone."""
    answering, url = server
    said = [{"role": "user", "content": "?"}]
    body = {"model": "gpt", "messages": said, "top_k": 5, "timeout": 1, "stream": True}
    table = tmp_path / "in.jsonl"
    lines = [{"custom_id": "whole", "body": body}, {"custom_id": "none", "body": {"prompt": "?"}}]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_batch(table, tmp_path / "out.jsonl", url, Asked())
    assert [name for name, _ in done.failures] == ["none"]
    assert {"model": "m", "messages": said, "top_k": 5, "timeout": 1, "stream": False} in answering.asked


def test_a_text_that_is_not_unicode_fails_alone(server: tuple[Answering, str], tmp_path: Path) -> None:
    """As of a program that cut a text within an emoji."""
    (tmp_path / "a.png").write_bytes(drawing.encoded(drawing.blank(32, 32)))
    cut = "What is this? \ud83d"
    for name, line in {
        "table": {"id": "cut", "image": "a.png", "prompt": cut},
        "requests": {"custom_id": "cut", "body": {"messages": [{"role": "user", "content": cut}]}},
    }.items():
        whole = json.loads(json.dumps(line).replace(r"\ud83d", "").replace('"cut"', '"whole"'))
        table = tmp_path / f"{name}.jsonl"
        table.write_text("".join(json.dumps(each) + "\n" for each in (line, whole)))
        done = run_batch(table, tmp_path / f"{name}-out.jsonl", server[1], Asked())
        assert done.total == 2
        ((failed, why),) = done.failures
        assert failed == "cut"
        assert r"'\ud83d' in it is no character" in why
