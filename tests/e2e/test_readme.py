"""The README's examples, run as they stand (but for the port) beside a drawn photo.jpg."""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests import drawing
from tests.conftest import ONECARD, Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    photo = drawing.circle(drawing.blank(), 320, 240, 110, "red")
    (tmp_path / "photo.jpg").write_bytes(drawing.encoded(photo, "JPEG"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_two_commands_say_what_stands_below_them(server: Server, name: str) -> None:
    """But for seconds and speed, which are each machine's own."""
    text = (ROOT / name).read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith(".venv/bin/onecard ask"))
    words = [*ONECARD, *shlex.split(command)[1:], f"--port={server.port}"]
    done = subprocess.run(words, capture_output=True, text=True, env=server.environment, check=True)
    ready = next(line for line in server.output.read_text().splitlines() if line.startswith("Ready"))
    answer = done.stdout + done.stderr.replace(" in all", "")  # a quick answer may come in one piece
    said = f"{ready}\n\n{answer}".replace(server.url, "http://127.0.0.1:8000")
    assert re.sub(r"[\d.]+(?= s\b| tokens)", "…", said) in text


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("name", "said"), [("README.md", "red circle"), ("README.zh-CN.md", "红色的圆形")])
def test_the_python_examples(server: Server, name: str, said: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("http://127.0.0.1:8000", server.url)
    printed = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), names)  # noqa: S102
    names["client"].close()  # type: ignore[attr-defined]
    assert printed.getvalue().count(said) == 2  # whole and streamed
    assert re.search(r"\d+ \D+ \d+", printed.getvalue().splitlines()[-1])  # the token counts


def test_the_curl_example(server: Server, folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("curl -F image="))
    words = shlex.split(command.replace("http://127.0.0.1:8000", server.url))
    done = subprocess.run(
        [*words, "--silent", "--noproxy", "*"], capture_output=True, text=True, cwd=folder, check=True
    )
    assert "red circle" in done.stdout
