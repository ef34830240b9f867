"""Each bad request of docs/faults.md against the real server: its status, its shape, and that nothing is the worse for it."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import openai
import pytest

from tests.conftest import Server
from tests.faults.cases import CASES, Answer, Case, chat
from tests.faults.table import Line

# By status: the class that the OpenAI SDK makes of it.
EXCEPTIONS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError, 401: openai.AuthenticationError, 403: openai.PermissionDeniedError,
    404: openai.NotFoundError, 422: openai.UnprocessableEntityError, 429: openai.RateLimitError,
}  # fmt: skip
INSIDE = ("/work", "/home", "/usr", "Traceback", "EngineCore", "0x", "vllm.")


@pytest.fixture(scope="module")
def slow(server: Server) -> Iterator[dict[str, "Future[Answer]"]]:
    """The requests that take their time, all begun at once."""
    cases = [case for case in CASES if case.slow]
    with ThreadPoolExecutor(len(cases)) as pool:
        yield {case.name: pool.submit(case.send, server.port) for case in cases}


@pytest.mark.usefixtures("still_right")
@pytest.mark.parametrize("case", sorted(CASES, key=lambda case: case.slow), ids=lambda case: case.name)
def test_a_bad_request_gets_its_answer(
    server: Server,
    slow: dict[str, "Future[Answer]"],
    table: list[Line],
    case: Case,
) -> None:
    answer = slow[case.name].result() if case.slow else case.send(server.port)
    assert answer.status in case.right, answer
    if answer.status >= 400:
        error = json.loads(answer.text)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert len(answer.text) < 1000
        assert not any(word in answer.text for word in INSIDE)
    table.append(Line(case.row, case.what, str(answer.status), 1000 * answer.seconds))


def test_context_overflow_says_both_numbers(server: Server) -> None:
    with server.openai() as client, pytest.raises(openai.BadRequestError, match=r"4096.*\d{4}"):
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "word " * 6000}])


@pytest.mark.parametrize(
    ("row", "what", "path", "more", "status"),
    [
        ("1", "40 MiB by the SDK", "/v1", {"user": "x" * (40 * 2**20)}, 413),
        ("9", "an unknown route, 5 MB, by the SDK", "/nothing", {"user": "x" * (5 * 2**20)}, 404),
        ("18", "a forbidden parameter by the SDK", "/v1", {"chat_template": "{{ 1 }}"}, 400),
        ("15", "an unknown model by the SDK", "/v1", {"model": "gpt-4o"}, 404),
    ],
)
def test_the_openai_sdk_receives_the_status_even_of_an_early_refusal(
    server: Server, table: list[Line], row: str, what: str, path: str, more: dict[str, str], status: int
) -> None:
    with server.openai() as client:
        other = client.with_options(base_url=server.url + path)
        with pytest.raises(EXCEPTIONS.get(status, openai.APIStatusError)) as caught:
            other.post("/chat/completions", body=chat() | more, cast_to=object)
    assert caught.value.status_code == status
    assert caught.value.body
    table.append(Line(row, what, f"{status} ({type(caught.value).__name__})"))
