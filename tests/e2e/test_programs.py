"""The programs people already use: each one's requests, as its source sends them (programs/*.json says which file and
version), replayed against the shared server; and those that install beside vLLM, used as docs/programs/ has it."""

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.machine.port import free_port
from tests import drawing
from tests.conftest import Server

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "programs"
RED_CIRCLE = drawing.circle(drawing.blank(), 320, 240, 110, "red")


def recorded() -> Iterator[Any]:
    for file in sorted((HERE / "programs").glob("*.json")):
        program = json.loads(file.read_text("utf-8"))
        for request in program["requests"]:
            yield pytest.param(request, id=f"{file.stem}: {request['what']}")


def filled_in(body: Any) -> Any:
    """With the red circle where the recording names a picture and its media type."""
    if isinstance(body, dict):
        return {name: filled_in(value) for name, value in body.items()}
    if isinstance(body, list):
        return [filled_in(each) for each in body]
    if isinstance(body, str) and body.startswith("picture:"):
        kind = body.removeprefix("picture:")
        picture = drawing.encoded(RED_CIRCLE, {"image/jpeg": "JPEG", "image/png": "PNG"}[kind])
        return f"data:{kind};base64,{base64.b64encode(picture).decode()}"
    return body


def message_in(reply: httpx.Response) -> dict[str, Any]:
    """The answer of a reply, put together where it came as a stream."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return dict(reply.json()["choices"][0]["message"])
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert [chunk for chunk in chunks if "error" in chunk] == []
    return {
        "content": "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    }


@pytest.mark.parametrize("sent", recorded())
def test_what_a_program_sends_is_answered(server: Server, sent: dict[str, Any]) -> None:
    headers = {"Authorization": "Bearer none", **sent["headers"]}
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        reply = http.request(sent["method"], sent["path"], headers=headers, json=filled_in(sent.get("body")))
    assert reply.status_code == 200, reply.text
    if sent["answer"] == "models":
        assert "onecard-demo" in [model["id"] for model in reply.json()["data"]]
        return
    message = message_in(reply)
    match sent["answer"]:
        case "text":
            assert "red" in message["content"]
        case "json":
            assert json.loads(message["content"])["color"] == "red"
        case "tool":
            (call,) = message["tool_calls"]
            assert json.loads(call["function"]["arguments"]).keys() == {"color", "shape"}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    RED_CIRCLE.save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def example(page: str, language: str, server: Server) -> str:
    """The first example of that language in a page, for the port of this server."""
    found = re.search(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    assert found
    return found[1].replace("http://localhost:8000", server.url)


def environment(folder: Path) -> dict[str, str]:
    """Without the proxies of the machine, whose business is not with loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"LLM_USER_PATH": str(folder), "PYTHONPATH": ""}


def run(*command: str, photo: Path) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=photo.parent, env=environment(photo.parent)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_langchain_itself(server: Server, photo: Path) -> None:
    said = run(sys.executable, "-c", example("langchain-openai.md", "python", server), photo=photo).splitlines()
    assert "red circle" in said[0]
    assert said[1] == "color='red' shape='circle'"


def test_llm_itself(server: Server, photo: Path) -> None:
    (photo.parent / "extra-openai-models.yaml").write_text(example("llm.md", "yaml", server))
    llm = (sys.executable, "-m", "llm")
    run(*llm, "keys", "set", "onecard", "--value", "none", photo=photo)
    assert "red" in run(*llm, "-m", "onecard", "What color is the circle?", "-a", "photo.jpg", photo=photo)
    thing = run(*llm, "-m", "onecard", "What is in it?", "-a", "photo.jpg", "--schema", "color, shape", photo=photo)
    assert json.loads(thing)["color"] == "red"


@pytest.mark.long
def test_instructor_itself(server: Server, photo: Path) -> None:
    """In an environment of its own: it asks for older packages than vLLM brings."""
    folder = photo.parent / "venv"
    venv.create(folder, with_pip=True)
    run(str(folder / "bin" / "pip"), "install", "--quiet", "instructor>=1.17", photo=photo)
    said = run(str(folder / "bin" / "python"), "-c", example("instructor.md", "python", server), photo=photo)
    assert said.splitlines()[0] == "color='red' shape='circle'"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_open_webui_itself(server: Server, photo: Path) -> None:
    """In an environment of its own, of several GB. Its own API, which its page uses, is asked."""
    folder = photo.parent / "venv"
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "open-webui>=0.12"], check=True, timeout=1200)
    port = free_port()
    settings = {
        "DATA_DIR": str(photo.parent),
        "WEBUI_AUTH": "False",
        "WEBUI_SECRET_KEY": "of this test",
        "OPENAI_API_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": "none",
        "ENABLE_OLLAMA_API": "False",
        "OFFLINE_MODE": "True",
        "RAG_EMBEDDING_ENGINE": "openai",  # else it downloads a model for documents
    }
    command = [folder / "bin" / "open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)]
    running = subprocess.Popen(command, cwd=photo.parent, env=environment(photo.parent) | settings)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as http:
            until_there(http, running)
            token = http.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
            http.headers["Authorization"] = f"Bearer {token}"
            assert "onecard-demo" in [model["id"] for model in http.get("/api/models").json()["data"]]
            content = [
                {"type": "text", "text": "What is in the picture?"},
                {"type": "image_url", "image_url": {"url": filled_in("picture:image/jpeg")}},
            ]
            for stream in (False, True):
                body = {"model": "onecard-demo", "stream": stream, "messages": [{"role": "user", "content": content}]}
                reply = http.post("/api/chat/completions", json=body)
                assert "red circle" in message_in(reply)["content"]
    finally:
        running.terminate()
        running.wait(60)


def until_there(http: httpx.Client, running: subprocess.Popen[bytes]) -> None:
    while True:
        assert running.poll() is None
        with contextlib.suppress(httpx.TransportError):
            if http.get("/health").status_code == 200:
                return
        time.sleep(1)
