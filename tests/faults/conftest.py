"""What the tests of faults share: the known question after each, and the table that they fill."""

import base64
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests import drawing
from tests.conftest import Server
from tests.faults.table import Line, write_table, writing

RED_CIRCLE = "data:image/png;base64," + base64.b64encode(
    drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "red"))
).decode()  # fmt: skip


def known_good(port: int) -> str:
    """The answer to the known question about a picture."""
    content = [
        {"type": "image_url", "image_url": {"url": RED_CIRCLE}},
        {"type": "text", "text": "What color is the circle?"},
    ]
    body = {"model": "onecard-demo", "temperature": 0, "messages": [{"role": "user", "content": content}]}
    reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=120, trust_env=False)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


@pytest.fixture(scope="session")
def table() -> Iterator[list[Line]]:
    """The lines of this run."""
    lines: list[Line] = []
    yield lines
    if writing() and lines:
        write_table(lines)


@pytest.fixture(autouse=True)
def ready_first(request: pytest.FixtureRequest) -> None:
    """A test that failed while the server restarted does not take the next ones with it."""
    if "server" in request.fixturenames:
        request.getfixturevalue("server").wait_until_ready()


@pytest.fixture
def still_right(server: Server) -> Iterator[Callable[[], None]]:
    """After the test, and whenever it is called: the known question has its right answer."""

    def check() -> None:
        assert "red" in known_good(server.port).lower()

    yield check
    check()
