"""Every exception that the clients raise, synchronous and asynchronous, each provoked by what causes it: the real guard
and supervisor, in front of an application without an engine (tests/stand_in)."""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from clients import AnswerError, AsyncClient, Client, InputError, PictureError
from serving.machine.port import free_port
from tests import drawing
from tests.conftest import ONECARD
from tests.unit.test_supervisor import Supervised, supervised_with_keys

PICTURE = drawing.blank(64, 48, "red")
# Five seconds and a minute, as the stand-in counts.
LONG, FOR_EVER = {"max_tokens": 500}, {"max_tokens": 6000}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    with supervised_with_keys(tmp_path_factory.mktemp("stand-in")) as running:
        yield running


def ask(how: str, url: str, question: str = "?", picture: Any = PICTURE, options: Any = None, **client: Any) -> str:
    """Through the client of that kind; it asks once, without the proxies of the machine."""
    known = {"api_key": "open-sesame", "model": "demo", "timeout_s": 20.0, "max_retries": 0} | client
    headers = known.pop("headers", {})
    if how == "sync":
        with Client(url, http_client=DefaultHttpxClient(trust_env=False, headers=headers), **known) as sync:
            return sync.ask(picture, question, **(options or {}))

    async def asked() -> str:
        http = DefaultAsyncHttpxClient(trust_env=False, headers=headers)
        async with AsyncClient(url, http_client=http, **known) as client:
            return await client.ask(picture, question, **(options or {}))

    return asyncio.run(asked())


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(
    ("raises", "status", "because"),
    [
        (openai.BadRequestError, 400, {"options": {"temperature": 9}}),
        (openai.AuthenticationError, 401, {"api_key": "open-barley"}),
        (openai.PermissionDeniedError, 403, {"headers": {"Origin": "https://a-page.example"}}),
        (openai.NotFoundError, 404, {"model": "another"}),
        (openai.APIStatusError, 413, {"question": "?" * (33 * 2**20)}),
        (openai.APITimeoutError, None, {"timeout_s": 0.5, "options": LONG}),
        (PictureError, None, {"picture": b"Dear diary"}),
        (PictureError, None, {"picture": [PICTURE] * 9}),
        (InputError, None, {"picture": b"Dear diary"}),
        (OSError, None, {"picture": "nowhere.jpg"}),
    ],
)  # fmt: skip
def test_each_refusal_has_its_exception(
    stand_in: Supervised, how: str, raises: type[Exception], status: int | None, because: dict[str, Any]
) -> None:
    url = f"http://127.0.0.1:{stand_in.port}"
    with pytest.raises(raises) as raised:
        ask(how, url, **because)
    assert getattr(raised.value, "status_code", None) == status
    assert "red" in ask(how, url, options={"max_tokens": 1})


@pytest.mark.parametrize("how", ["sync", "async"])
def test_nobody_there(how: str) -> None:
    with pytest.raises(openai.APIConnectionError):
        ask(how, f"http://127.0.0.1:{free_port()}")


def test_too_often(stand_in: Supervised) -> None:
    url = f"http://127.0.0.1:{stand_in.port}"
    assert "red" in ask("sync", url, api_key="one-wish", options={"max_tokens": 1})
    for how in ("sync", "async"):
        with pytest.raises(openai.RateLimitError) as raised:
            ask(how, url, api_key="one-wish", options={"max_tokens": 1})
        assert int(raised.value.response.headers["retry-after"]) > 0


def test_an_answer_that_is_not_what_was_asked_for(stand_in: Supervised) -> None:
    url = f"http://127.0.0.1:{stand_in.port}"
    with Client(url, "open-sesame", model="demo") as client, pytest.raises(AnswerError, match="A red circle"):
        client.locate(PICTURE, "dog", max_tokens=1)


def on_the_command_line(folder: Path, url: str, *arguments: str, key: str = "") -> tuple[int, str]:
    """The exit code, and what was said. The words PICTURE and FOLDER stand for such."""
    (folder / "pictures").mkdir(exist_ok=True)
    PICTURE.save(folder / "pictures" / "a.png")
    (folder / "pictures" / "b.png").write_text("Dear diary")
    words = [{"PICTURE": "pictures/a.png", "FOLDER": "pictures"}.get(word, word) for word in arguments]
    done = subprocess.run(
        [*ONECARD, *words, "--url", url], cwd=folder, capture_output=True, text=True, timeout=60,
        env=os.environ | {"ONECARD_API_KEY": key, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr + done.stdout


def test_a_wrong_key_on_the_command_line(stand_in: Supervised, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stand_in.port}"
    for arguments in (("ask", "PICTURE", "?"), ("batch", "FOLDER", "--prompt", "?", "--out", "r.jsonl")):
        code, said = on_the_command_line(tmp_path, url, *arguments, key="open-barley")
        assert code == 1
        assert "does not take the key" in said
        assert "Set ONECARD_API_KEY" in said
    assert sorted(tmp_path.glob("r.*")) == []  # no journal of a run that never was


def test_the_newline_of_a_secret_is_no_part_of_the_key(stand_in: Supervised, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stand_in.port}"
    assert on_the_command_line(tmp_path, url, "ask", "PICTURE", "?", key="open-sesame\n")[0] == 0


def test_a_question_in_another_encoding_is_told(stand_in: Supervised, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stand_in.port}"
    typed = os.fsdecode("图中有什么".encode("gbk"))
    code, said = on_the_command_line(tmp_path, url, "ask", "PICTURE", typed, key="open-sesame")
    assert code == 2
    assert "is not Unicode" in said


def test_of_several_pictures_the_broken_one_is_named(stand_in: Supervised, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "red"))[:-200])
    url = f"http://127.0.0.1:{stand_in.port}"
    code, said = on_the_command_line(tmp_path, url, "ask", "PICTURE", "torn.png", "?", key="open-sesame")
    assert code == 2
    assert "torn.png cannot be read as a picture (broken" in said


def test_what_is_broken_in_the_middle_of_a_batch_fails_alone(stand_in: Supervised, tmp_path: Path) -> None:
    batch = ("batch", "FOLDER", "--prompt", "?", "--out", "r.jsonl", "--max-tokens", "1")
    code, said = on_the_command_line(tmp_path, f"http://127.0.0.1:{stand_in.port}", *batch, key="open-sesame")
    assert code == 14
    assert "b.png: pictures/b.png cannot be read as a picture" in said
    assert "1 of 2 answered" in said


def test_on_a_terminal_a_long_answer_is_waited_for_aloud(stand_in: Supervised, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    ours, theirs = os.openpty()
    asking = [*ONECARD, "ask", "a.png", "?", "--json", "--max-tokens", "500", "--port", str(stand_in.port)]
    environment = os.environ | {"ONECARD_API_KEY": "open-sesame", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(asking, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, timeout=60, env=environment)
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    assert json.loads(done.stdout)["answer"]
    assert "Waiting for the answer (" in said
    assert said.endswith("\r\x1b[K")  # nothing of it stays


@pytest.fixture
def another_server(tmp_path: Path) -> Iterator[str]:
    """Serves files, and answers 404 to whatever an API is asked."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    thread.join()
    web.server_close()


def test_another_program_on_the_port(another_server: str, tmp_path: Path) -> None:
    code, said = on_the_command_line(tmp_path, another_server, "ask", "PICTURE", "?")
    assert code == 1
    assert "does not speak OpenAI's API" in said
    assert "--port" in said


def test_an_answer_that_breaks_off_and_a_server_that_ends(stand_in: Supervised) -> None:
    """Comes last: the server is told to end, which it does when the answer under way is there."""
    url = f"http://127.0.0.1:{stand_in.port}"
    broken: list[Exception] = []

    def wait_for_ever() -> None:
        try:
            ask("sync", url, options=FOR_EVER, timeout_s=60.0)
        except openai.APIConnectionError as error:
            broken.append(error)

    headers = {"Authorization": "Bearer open-sesame"}
    waiting = threading.Thread(target=wait_for_ever)
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        while http.get("/onecard/status").json()["queue"]["running"]:  # what others did not wait for
            time.sleep(0.1)
        waiting.start()
        while not http.get("/onecard/status").json()["queue"]["running"]:
            time.sleep(0.1)
    stand_in.process.terminate()
    stand_in.until(503)
    for how in ("sync", "async"):
        with pytest.raises(openai.InternalServerError) as raised:
            ask(how, url)
        assert raised.value.status_code == 503
        assert int(raised.value.response.headers["retry-after"]) > 0
    stand_in.server().kill()
    waiting.join()
    assert len(broken) == 1
