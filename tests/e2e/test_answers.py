"""Right answers about freshly drawn pictures, from real vLLM through the official SDK."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests import drawing
from tests.conftest import ONECARD, Server


def picture(image: bytes, kind: str = "png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(image).decode()}"}}


def ask(client: OpenAI, *images: bytes, question: str, **options: Any) -> str:
    content: Any = [*map(picture, images), {"type": "text", "text": question}]
    messages: Any = [{"role": "user", "content": content}]
    reply = client.chat.completions.create(model="onecard-demo", messages=messages, temperature=0, **options)
    return str(reply.choices[0].message.content)


RED_CIRCLE = drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "red"))
BLUE_SQUARE = drawing.encoded(drawing.square(drawing.blank(500, 500), 250, 250, 90, "blue"))
GREEN_TRIANGLE = drawing.encoded(drawing.triangle(drawing.blank(800, 600, "lightyellow"), 170, 300, 100, "green"))
THREE_CIRCLES = drawing.encoded(
    drawing.circle(
        drawing.circle(drawing.circle(drawing.blank(), 110, 240, 60, "blue"), 320, 240, 60, "blue"),
        530,
        240,
        60,
        "blue",
    )
)
HELLO = drawing.encoded(drawing.word(drawing.blank(600, 300), "HELLO", 110))


@pytest.mark.parametrize(
    ("image", "question", "words"),
    [
        (RED_CIRCLE, "What shape is in the picture?", ["circle"]),
        (RED_CIRCLE, "What color is the circle?", ["red"]),
        (RED_CIRCLE, "What is in the picture?", ["red", "circle"]),
        (RED_CIRCLE, "图片中有什么？", ["红色", "圆形"]),
        (RED_CIRCLE, "描述这张图片中的内容", ["红色", "圆形"]),
        (BLUE_SQUARE, "What is in the picture?", ["blue", "square"]),
        (BLUE_SQUARE, "正方形是什么颜色的？", ["蓝色"]),
        (GREEN_TRIANGLE, "Where is the triangle?", ["left"]),
        (GREEN_TRIANGLE, "三角形在哪里？", ["左"]),
        (THREE_CIRCLES, "How many circles are there?", ["3"]),
        (THREE_CIRCLES, "图中有几个圆形？", ["3"]),
        (THREE_CIRCLES, "Is there a star in the picture?", ["No"]),
        (RED_CIRCLE, "Is the circle red?", ["Yes"]),
        (HELLO, "What does it say?", ["HELLO"]),
        (HELLO, "图片上写的是什么？", ["HELLO"]),
    ],
)
def test_question_about_one_picture(client: OpenAI, image: bytes, question: str, words: list[str]) -> None:
    answer = ask(client, image, question=question)
    assert all(word in answer for word in words), answer


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
def test_formats(client: OpenAI, kind: str) -> None:
    image = drawing.circle(drawing.blank(), 320, 240, 110, "red")
    content: Any = [
        picture(drawing.encoded(image, kind.upper()), kind),
        {"type": "text", "text": "What color is the circle?"},
    ]
    messages: Any = [{"role": "user", "content": content}]
    reply = client.chat.completions.create(model="onecard-demo", messages=messages, temperature=0)
    assert "red" in str(reply.choices[0].message.content)


def test_streamed_answer_is_the_same_and_ends_with_usage(client: OpenAI) -> None:
    content: Any = [picture(BLUE_SQUARE), {"type": "text", "text": "What is in the picture?"}]
    messages: Any = [{"role": "user", "content": content}]
    chunks = list(
        client.chat.completions.create(
            model="onecard-demo", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == ask(client, BLUE_SQUARE, question="What is in the picture?")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 1


def test_several_pictures(client: OpenAI) -> None:
    answer = ask(client, RED_CIRCLE, BLUE_SQUARE, question="In which picture is there a square?")
    assert "2" in answer, answer


def test_second_turn_about_the_same_picture(client: OpenAI) -> None:
    first = "What shape is in the picture?"
    messages: Any = [{"role": "user", "content": [picture(BLUE_SQUARE), {"type": "text", "text": first}]}]
    reply = client.chat.completions.create(model="onecard-demo", messages=messages, temperature=0)
    messages += [
        {"role": "assistant", "content": reply.choices[0].message.content},
        {"role": "user", "content": "What color is it?"},
    ]
    reply = client.chat.completions.create(model="onecard-demo", messages=messages, temperature=0)
    assert "blue" in str(reply.choices[0].message.content)


def test_json_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"shape": {"type": "string"}, "color": {"type": "string"}},
        "required": ["shape", "color"],
        "additionalProperties": False,
    }
    answer = ask(
        client,
        RED_CIRCLE,
        question="Answer as JSON with the keys shape and color.",
        response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
    )
    assert json.loads(answer) == {"shape": "circle", "color": "red"}


def test_tool_call(client: OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"shape": {"type": "string"}, "color": {"type": "string"}},
        "required": ["shape", "color"],
    }
    function = {"name": "report_shape", "description": "Report the shape in the picture.", "parameters": parameters}
    content: Any = [picture(RED_CIRCLE), {"type": "text", "text": "Report the shape in the picture."}]
    messages: Any = [{"role": "user", "content": content}]
    tools: Any = [{"type": "function", "function": function}]
    asked: Any = {"model": "onecard-demo", "messages": messages, "temperature": 0, "tools": tools}
    reply = client.chat.completions.create(**asked, tool_choice="auto")
    calls = reply.choices[0].message.tool_calls
    assert calls, reply.choices[0].message.content
    assert calls[0].function.name == "report_shape"  # type: ignore[union-attr]
    assert json.loads(calls[0].function.arguments) == {"shape": "circle", "color": "red"}  # type: ignore[union-attr]
    none = client.chat.completions.create(**asked, tool_choice="none").choices[0].message
    assert none.tool_calls is None
    assert "<tool_call>" not in str(none.content)


def test_text_alone_is_answered(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Who are you?"}]
    reply = client.chat.completions.create(model="demo", messages=messages, temperature=0)
    assert "onecard-demo" in str(reply.choices[0].message.content)


def test_a_large_picture_costs_what_the_plan_says(server: Server, client: OpenAI) -> None:
    large = drawing.encoded(drawing.circle(drawing.blank(2048, 2048), 1024, 1024, 400, "red"))
    content: Any = [picture(large), {"type": "text", "text": "?"}]
    messages: Any = [{"role": "user", "content": content}]
    reply = client.chat.completions.create(model="onecard-demo", messages=messages, max_tokens=1)
    without: Any = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    base = client.chat.completions.create(model="onecard-demo", messages=without, max_tokens=1)
    assert reply.usage is not None
    assert base.usage is not None
    image_tokens = reply.usage.prompt_tokens - base.usage.prompt_tokens
    planned = server.get("/onecard/status").json()["plan"]["capacity"]["image_tokens"]
    assert planned - 20 <= image_tokens <= planned + 2  # with the two marks around it


@pytest.mark.parametrize(("question", "words"), [(None, ["红色", "圆形"]), ("What color is it?", ["red"])])
def test_ask_route(server: Server, question: str | None, words: list[str]) -> None:
    data = {} if question is None else {"question": question}
    reply = httpx.post(f"{server.url}/ask", files={"image": RED_CIRCLE}, data=data, timeout=60, trust_env=False)
    assert reply.status_code == 200
    body = reply.json()
    assert body["success"] is True
    assert body["time_taken"] > 0
    assert all(word in body["response"] for word in words), body


def test_onecard_ask(server: Server, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "red"), "JPEG"))
    done = subprocess.run(
        [*ONECARD, "ask", str(photo), "What is in the picture?", "--port", str(server.port)],
        capture_output=True, text=True, timeout=60, env=server.environment, check=True,
    )  # fmt: skip
    assert "red circle" in done.stdout
    assert "first token after" in done.stderr
    assert "tokens/s" in done.stderr
