"""Plain vLLM: the clients work with it as well; and the same bad requests, for the other column of docs/faults.md, of
which nothing is asserted."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from pydantic import BaseModel

from clients import AsyncClient, Client
from clients.limits import Limits
from serving.hub import resolve_model
from tests import drawing
from tests.faults.cases import CASES, PATIENCE_S
from tests.faults.conftest import known_good
from tests.faults.table import Line, write_plain, writing
from tests.plain import plain_vllm

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def plain_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    model = resolve_model("demo").download()
    with plain_vllm(model, tmp_path_factory.mktemp("plain"), "onecard-demo", "demo") as port:
        yield port


class Thing(BaseModel):
    color: str


def test_the_clients_ask_plain_vllm_as_well(plain_port: int) -> None:
    """Which has no /onecard/status: nothing is assumed of it, and its refusals are the SDK's exceptions too."""
    url, photo = f"http://127.0.0.1:{plain_port}", drawing.circle(drawing.blank(), 320, 240, 110, "red")
    question = "What color is the circle?"

    async def ask() -> tuple[str, str, str, Thing]:
        async with AsyncClient(url) as client:
            talk = await client.conversation(photo)
            streamed = "".join([text async for text in client.stream(photo, question)])
            thing = await client.extract(photo, question, Thing, max_completion_tokens=50)
            with pytest.raises(openai.NotFoundError):
                await client.ask(photo, question, model="another")
            return await client.ask(photo, question), streamed, await talk.ask(question), thing

    with Client(url) as client:
        assert client.limits == Limits()
        talk = client.conversation(photo)
        answers = [client.ask(photo, question), "".join(client.stream(photo, question)), talk.ask(question)]
        assert client.extract(photo, question, Thing, max_completion_tokens=50) == Thing(color="red")
        with pytest.raises(openai.BadRequestError):
            client.ask(photo, question, max_completion_tokens=-1)
        with pytest.raises(openai.NotFoundError):
            client.ask(photo, question, model="another")
    *also, thing = asyncio.run(ask())
    assert [answer for answer in (*answers, *also) if "red" not in answer] == []
    assert thing.color == "red"


@pytest.mark.timeout(1800)
def test_what_plain_vllm_answers(plain_port: int) -> None:
    cases = sorted(CASES, key=lambda case: case.slow)
    lines = []
    with ThreadPoolExecutor(8) as pool:
        slow = {case.name: pool.submit(case.send, plain_port) for case in cases if case.slow}
        for case in cases:
            answer = slow[case.name].result() if case.slow else case.send(plain_port)
            said = str(answer.status) if answer.status else f"no answer in {PATIENCE_S:.0f} s"
            lines.append(Line(case.row, case.what, said, 1000 * answer.seconds))
    assert known_good(plain_port)
    assert [line.what for line in lines] == [case.what for case in cases]
    if writing():
        write_plain(lines)
