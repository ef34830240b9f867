"""The client library and `onecard batch` against the shared server: right answers, killed in the middle, resumed."""

import asyncio
import csv
import json
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import openai
import pytest
from PIL import Image
from pydantic import BaseModel

from clients import AsyncClient, Client, PictureError
from tests import drawing
from tests.conftest import ONECARD, Server

COLORS = ("red", "green", "blue")
COUNT = 120  # thousands in test_batch.py
PROMPT = "What is in the picture?"


class Thing(BaseModel):
    color: str
    shape: str


@pytest.fixture
def photo() -> Image.Image:
    """Eight times as large as the server looks at."""
    return drawing.circle(drawing.blank(1200, 700), 600, 350, 200, "red")


def test_a_picture_may_come_as_anything(server: Server, photo: Image.Image, tmp_path: Path) -> None:
    import numpy

    file = tmp_path / "photo.jpg"
    photo.save(file)
    photo.save(tmp_path / "page.pdf")
    with Client(server.url) as client:
        sources = [photo, str(file), file, file.read_bytes(), numpy.asarray(photo), str(tmp_path / "page.pdf")]
        answers = [client.ask(source, PROMPT) for source in sources]
        assert [answer for answer in answers if "red circle" not in answer] == []
        assert "".join(client.stream(photo, PROMPT)) == answers[0]
        talk = client.conversation(photo)
        assert "circle" in talk.ask("What shape is in the picture?")
        assert "red" in talk.ask("What color is it?")
        assert client.extract(photo, PROMPT, Thing, max_completion_tokens=100) == Thing(color="red", shape="circle")
        with pytest.raises(PictureError, match=r"5 pictures.* takes 4"):
            client.ask([photo] * 5, PROMPT)
        with pytest.raises(openai.NotFoundError):
            client.ask(photo, PROMPT, model="another")
        with pytest.raises(openai.BadRequestError):
            client.ask(photo, PROMPT, max_completion_tokens=-1)


def test_the_same_with_asyncio(server: Server, photo: Image.Image) -> None:
    async def ask() -> tuple[str, str, str, Thing]:
        async with AsyncClient(server.url) as client:
            talk = await client.conversation(photo)
            streamed = "".join([text async for text in client.stream(photo, PROMPT)])
            await talk.ask("What shape is in the picture?")
            second = await talk.ask("What color is it?")
            thing = await client.extract(photo, PROMPT, Thing, max_completion_tokens=100)
            return await client.ask(photo, PROMPT), streamed, second, thing

    whole, streamed, second, thing = asyncio.run(ask())
    assert "red circle" in whole
    assert streamed == whole
    assert "red" in second
    assert thing.color == "red"


def test_several_questions_on_the_command_line(server: Server, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    done = subprocess.run(
        [*ONECARD, "ask", str(tmp_path / "*.png"), "What shape is in the picture?", "--follow", "--json",
         "--port", str(server.port)],
        input="What color is it?\n", capture_output=True, text=True, timeout=60, env=server.environment, check=True,
    )  # fmt: skip
    first, second = map(json.loads, done.stdout.splitlines())
    assert ("circle" in first["answer"], "red" in second["answer"]) == (True, True)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, told apart by their backgrounds, and one file that is none."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(COUNT):
        image = drawing.blank(320 + number % 60, 320, (250, 250 - number % 20, 250))  # type: ignore[arg-type]
        drawing.circle(image, 160, 160, 60 + number % 30, COLORS[number % 3]).save(pictures / f"{number:03}.png")
    (pictures / "030-broken.png").write_bytes(b"\x89PNG not much of a picture")
    return pictures


def batch(server: Server, source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ONECARD, "batch", str(source), "--out", str(out), "--port", str(server.port), *more],
        stderr=subprocess.PIPE, text=True, env=server.environment,
    )  # fmt: skip


def journal(out: Path) -> list[str]:
    file = out.with_name(out.name + ".journal")
    return file.read_text().splitlines()[1:] if file.exists() else []


def test_a_batch_is_killed_and_goes_on(server: Server, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    first = batch(server, folder, out, "--prompt", PROMPT)
    while len(journal(out)) < COUNT // 3 and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = len(journal(out))
    assert COUNT // 3 <= before < COUNT
    assert not out.exists()

    second = batch(server, folder, out, "--prompt", PROMPT)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 14, said  # one is no picture
    assert "030-broken.png" in said
    answers = [json.loads(line) for line in journal(out)]
    good = Counter(each["id"] for each in answers if not each["error"])
    assert good == Counter(f"{number:03}.png" for number in range(COUNT))  # each was answered, and once
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["id"] for each in results] == sorted(path.name for path in folder.iterdir())
    right = [each for each in results if each["answer"] and COLORS[int(each["id"][:3]) % 3] in each["answer"]]
    assert len(right) >= 0.95 * COUNT

    other = batch(server, folder, out, "--prompt", "Something else?")
    _, said = other.communicate(timeout=60)
    assert (other.returncode, "another run (prompt differ" in said) == (2, True), said


def test_a_table_in_and_a_table_out(server: Server, folder: Path, tmp_path: Path) -> None:
    table, out = folder.parent / "table.csv", tmp_path / "results.csv"
    table.write_text("id,image,question\na,pictures/001.png,What color is the circle?\nb,pictures/000.png,\n")
    done = batch(server, table, out, "--prompt", PROMPT)
    _, said = done.communicate(timeout=60)
    assert done.returncode == 0, said
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["id"], color in row["answer"]) for row, color in zip(rows, ("green", "red"), strict=True)] == [
        ("a", True),
        ("b", True),
    ]


def test_a_batch_file_of_openai(server: Server, tmp_path: Path) -> None:
    from clients.images import data_url

    url = data_url(drawing.circle(drawing.blank(), 320, 240, 110, "blue"))
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What color is the circle?"}]
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions"}
    line |= {"body": {"model": "gpt-4o", "messages": [{"role": "user", "content": content}]}}
    file, out = tmp_path / "requests.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(line) + "\n")
    done = batch(server, file, out)
    _, said = done.communicate(timeout=60)
    assert done.returncode == 0, said
    (answer,) = map(json.loads, out.read_text().splitlines())
    assert (answer["custom_id"], answer["error"], answer["response"]["status_code"]) == ("one", None, 200)
    assert "blue" in answer["response"]["body"]["choices"][0]["message"]["content"]


def test_the_examples_of_the_documentation(
    server: Server,
    photo: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "clients.md").read_text()
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONECARD_URL", server.url)
    names: dict[str, object] = {"__name__": "examples"}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, names)  # noqa: S102
    assert capsys.readouterr().out.splitlines()[0].endswith("red circle.")
    client = names["client"]
    assert isinstance(client, Client)
    client.close()
