"""A profile of the user's own, with adapters and video, on a real vLLM: each adapter is a model of its own name, and as many
frames as are promised are answered in one request."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionContentPartParam
from PIL import Image

from tests.adapter import write_adapter
from tests.conftest import Server, start_server

CPU = Path(__file__).parents[2] / "configs" / "profiles" / "cpu.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("own")
    write_adapter(folder / "same")
    write_adapter(folder / "other", rank=8, modules=("q_proj", "v_proj", "down_proj"), strength=5.0)
    own = f"lora_modules: [same={folder}/same, other={folder}/other]\nvideo: {{max_frames: 64, max_frame_pixels: 65536}}\n"
    (folder / "own.yaml").write_text(CPU.read_text("utf-8") + own, encoding="utf-8")
    running = start_server(folder, profile=str(folder / "own.yaml"))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def ask(client: openai.OpenAI, model: str, content: list[ChatCompletionContentPartParam] | str) -> ChatCompletion:
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=16
    )


def frame(number: int) -> ChatCompletionContentPartParam:
    image = Image.new("RGB", (256, 256), "white")
    image.paste("red", (number, number, number + 64, number + 64))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


@pytest.mark.long
def test_each_adapter_answers_under_its_name_and_changes_nobody_elses_answers(server: Server) -> None:
    with server.openai() as client:
        assert {"demo", "same", "other"} <= {model.id for model in client.models.list()}
        question = "Which shapes do you know?"
        answers = [ask(client, name, question).choices[0].message.content for name in ("demo", "same", "other", "demo")]
        alone, same, other, again = answers
        assert alone == same == again
        assert other != alone
        with pytest.raises(openai.NotFoundError, match="other, same"):
            ask(client, "third", question)


@pytest.mark.long
def test_as_many_frames_as_are_promised_are_answered_and_one_more_is_refused(server: Server) -> None:
    limits = server.get("/onecard/status").json()["limits"]
    frames = limits["max_video_frames"]
    assert frames > 4
    with server.openai() as client:
        sent = [frame(number) for number in range(frames)]
        reply = ask(client, "demo", [*sent, {"type": "text", "text": "What is in the pictures?"}])
        assert reply.usage is not None
        assert reply.usage.prompt_tokens > frames * 64
        with pytest.raises(openai.BadRequestError, match=f"takes {frames}"):
            ask(client, "demo", [*sent, frame(99), {"type": "text", "text": "What is in the pictures?"}])
