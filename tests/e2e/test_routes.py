"""What the server answers besides questions: its routes, its refusals, and what it must not do."""

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from tests.conftest import Server


def test_models_have_every_name(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"onecard-demo", "demo"}


def test_one_model_by_its_name(client: OpenAI) -> None:
    assert client.models.retrieve("demo") == next(model for model in client.models.list() if model.id == "demo")
    with pytest.raises(openai.NotFoundError, match="there is demo, onecard-demo"):
        client.models.retrieve("gpt-4o")


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models", "/onecard/status"])
def test_open_routes(server: Server, path: str) -> None:
    assert server.get(path).status_code == 200


def test_metrics_are_vllms(server: Server) -> None:
    assert "vllm:num_requests_running" in server.get("/metrics").text


def test_status_has_the_plan(server: Server) -> None:
    status = server.get("/onecard/status").json()
    assert status["state"] == "ready"
    assert status["plan"]["profile"] == "cpu"
    assert status["measured"]["warmup_image_s"] > 0
    assert {"running", "waiting"} == set(status["queue"])


_NOT_HERE = (
    "/docs /openapi.json /tokenize /invocations /v1/embeddings /v1/chat/completions/ //v1/models /%76%31/modelz /load "
    "/version /v1/load_lora_adapter"
)


@pytest.mark.parametrize("path", _NOT_HERE.split())
def test_everything_else_is_404_in_openais_shape(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        reply = httpx.request(method, server.url + path, timeout=10, trust_env=False)
        assert reply.status_code == 404
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_near_miss_names_the_right_url(server: Server) -> None:
    assert "/v1/chat/completions" in server.get("/chat/completions").json()["error"]["message"]
    assert "/v1/models" in server.get("/v1/model").json()["error"]["message"]


def test_wrong_method(server: Server) -> None:
    reply = server.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_a_web_url_is_refused_with_the_flag_that_allows_it(client: OpenAI) -> None:
    for url in ("http://127.0.0.1:9/x.png", "https://example.com/x.png", "file:///etc/passwd"):
        content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
        messages: Any = [{"role": "user", "content": content}]
        with pytest.raises(openai.BadRequestError, match="--allow-image-urls"):
            client.chat.completions.create(model="onecard-demo", messages=messages)


def test_too_many_pictures(client: OpenAI) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    messages: Any = [{"role": "user", "content": [part] * 5}]
    with pytest.raises(openai.BadRequestError, match="5 pictures"):
        client.chat.completions.create(model="onecard-demo", messages=messages)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"reasoning_effort": "lots"}, "reasoning_effort", None),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "input_tokens", "context_length_exceeded"),
    ],
)
def test_what_vllm_refuses_is_said_in_words(client: OpenAI, body: dict[str, Any], param: str, code: str | None) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=messages, extra_body=body)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert not re.search(r"'loc'|\[type=|\(parameter=", refused.value.message)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        {"n": 2, "temperature": 0},
        {"logit_bias": {"99999999": 1}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strange"}}}},
    ],
)
def test_what_the_engine_refuses_is_400_streamed_too(client: OpenAI, stream: bool, body: dict[str, Any]) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=messages, stream=stream, extra_body=body)


def test_an_unknown_model(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=messages)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": 1}', b"\xff\xfe"])
def test_a_broken_body(server: Server, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers, timeout=10, trust_env=False)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_a_body_over_the_limit(server: Server) -> None:
    limit = server.get("/onecard/status").json()["limits"]["max_body_mib"]

    def chunks() -> Any:
        for _ in range(limit + 1):
            yield b"x" * 2**20

    with httpx.Client(timeout=30, trust_env=False) as http:
        headers = {"content-type": "application/json"}
        reply = http.post(f"{server.url}/v1/chat/completions", content=chunks(), headers=headers)
    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"data": {"question": "x"}}, 415),
        ({"files": {"picture": b"x"}}, 400),
        ({"files": {"image": b"not a picture"}}, 400),
    ],
)
def test_ask_without_a_picture(server: Server, arguments: dict[str, Any], status: int) -> None:
    reply = httpx.post(f"{server.url}/ask", timeout=30, trust_env=False, **arguments)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_an_answer_without_max_tokens_is_bounded(server: Server, client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    reply = client.chat.completions.create(model="demo", messages=messages, extra_body={"ignore_eos": True})
    assert reply.usage is not None
    assert (
        reply.usage.completion_tokens
        == json.loads((server.state_dir / str(server.port) / "launch.json").read_text())["default_max_tokens"]
    )


def test_no_connection_goes_outward(server: Server, client: OpenAI) -> None:
    """What Python opens is noted by tests/watch in each process; what other code holds open, the kernel tells."""
    messages: Any = [{"role": "user", "content": "hi"}]
    client.chat.completions.create(model="demo", messages=messages, max_tokens=4)
    processes = psutil.Process(server.process.pid).children(recursive=True)
    noted = [line.split("\t") for line in Path(server.output.parent, "connections.txt").read_text().splitlines()]
    assert {each.pid for each in processes} <= {int(text) for event, text in noted if event == "watching"}
    assert [line for line in noted if line[0] != "watching" and not _stays_here(*line)] == []
    peers = [c.raddr.ip for each in processes for c in each.net_connections("inet") if c.raddr]
    assert [peer for peer in peers if not ipaddress.ip_address(peer).is_loopback] == []


def _stays_here(event: str, address: str) -> bool:
    if address.startswith("/") or address in ("None", "localhost"):  # a unix socket, or this machine's name
        return True
    host = address if event == "socket.getaddrinfo" else address.strip("()").split(",")[0].strip("'")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
