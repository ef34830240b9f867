"""Good requests mutilated, as JSON and as bytes, before the guard's layers that look into a body: each is passed on or
refused in OpenAI's shape, and none raises."""

import base64
import copy
import gc
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from serving.guard.ask import Ask
from serving.guard.body import Body
from serving.guard.validation import Validation
from serving.ipc.launch import Launch
from serving.prepare import prepare
from tests.asgi import CHAT, error_of, request
from tests.drawing import blank, encoded
from tests.mutilated import mutilated

COMPLETIONS = "/v1/completions"
ANSWER = {"choices": [{"message": {"content": "A red circle."}}]}
PICTURE = "data:image/png;base64," + base64.b64encode(encoded(blank(64, 64))).decode()
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a+$"}}}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {
        "model": "demo", "max_tokens": 5, "temperature": 0.5, "n": 2, "stop": ["a", "b"], "seed": 3, "stream": True,
        "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 3, "logit_bias": {"5": 1.5},
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}},
                                         {"type": "text", "text": "What is it? 这是什么？"}]},
        ],
        "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto",
    }),
    (CHAT, {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": FUNCTION["parameters"]}},
        "chat_template_kwargs": {"a": 1}, "bad_words": ["x"], "metadata": {"a": "b"},
    }),
    (CHAT, {"messages": [{"role": "user", "content": "hi"}], "structured_outputs": {"regex": "(a|b){1,5}"}}),
    (COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "echo": False, "suffix": None}),
    (COMPLETIONS, {"prompt": [1, 2, 3], "structured_outputs": {"choice": ["a", "b"]}}),
]  # fmt: skip

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from([2**63, -(2**70), 1e308, "", "data:,", "<|image_pad|>", "\ud800", "\0", [[]], {"": {}}, "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_WITHOUT_HURRY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    prepared = prepare("cpu", "demo", gpu_memory_mib=8192)
    launch = Launch(
        plan=prepared.plan, model_folder=prepared.resolved.download(), default_max_tokens=256, host="127.0.0.1",
        port=8123, run_dir=tmp_path_factory.mktemp("run"),
    )  # fmt: skip
    return Body(Ask(Validation(JSONResponse(ANSWER), launch), "demo"), 2**22)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a body where something stands: what holds it, and under which key."""
    held: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    found = [(value, key) for key in held]
    for key in held:
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def is_passed_or_refused(guard: ASGIApp, path: str, body: bytes, kind: str = "application/json") -> None:
    reply = request(guard, "POST", path, content=body, headers={"content-type": kind})
    assert reply.status_code in (200, 400, 404, 413)
    if reply.status_code != 200:
        assert error_of(reply)["message"]
        assert len(reply.content) < 2000


def with_other_values(data: st.DataObject) -> tuple[str, dict[str, Any]]:
    path, good = data.draw(st.sampled_from(GOOD))
    body: dict[str, Any] = copy.deepcopy(good)
    for _ in range(data.draw(st.integers(1, 4))):
        body.setdefault("messages", None)  # so that there is something to change
        holder, key = data.draw(st.sampled_from(places(body)))
        match data.draw(st.sampled_from(["replace", "remove", "wrap", "repeat"])):
            case "replace":
                holder[key] = copy.deepcopy(data.draw(ANYTHING))  # of which the next change may take a part
            case "remove":
                del holder[key]
            case "wrap":
                holder[key] = [holder[key]]
            case "repeat":
                holder[key] = [copy.deepcopy(holder[key])] * data.draw(st.sampled_from([2, 20, 2000]))
        if len(as_bytes(body)) > 100_000:
            break
    return path, body


def as_bytes(body: dict[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=True).encode("utf-8", "surrogatepass")


@given(data=st.data())
@settings(_WITHOUT_HURRY, max_examples=150)
def test_a_request_with_other_values_is_passed_on_or_refused(guard: ASGIApp, data: st.DataObject) -> None:
    path, body = with_other_values(data)
    is_passed_or_refused(guard, path, as_bytes(body))


HOLES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=8)), min_size=1, max_size=6)


@given(good=st.sampled_from(GOOD), holes=HOLES)
@settings(_WITHOUT_HURRY, max_examples=100)
def test_mutilated_bytes_are_passed_on_or_refused(
    guard: ASGIApp, good: tuple[str, dict[str, Any]], holes: list[tuple[float, int, bytes]]
) -> None:
    is_passed_or_refused(guard, good[0], mutilated(as_bytes(good[1]), holes))


FORM = (
    b'--x\r\ncontent-disposition: form-data; name="image"; filename="p.png"\r\ncontent-type: image/png\r\n\r\n'
    + encoded(blank(64, 64))
    + b'\r\n--x\r\ncontent-disposition: form-data; name="question"\r\n\r\nWhat is it?\r\n--x--\r\n'
)
AS_FORM = {"content-type": "multipart/form-data; boundary=x"}


@given(holes=HOLES)
@settings(_WITHOUT_HURRY, max_examples=100)
def test_a_mutilated_form_is_answered_or_refused(guard: ASGIApp, holes: list[tuple[float, int, bytes]]) -> None:
    is_passed_or_refused(guard, "/ask", mutilated(FORM, holes), AS_FORM["content-type"])


def test_a_form_that_breaks_off_is_refused_and_leaves_no_file_open(guard: ASGIApp) -> None:
    closing = FORM.rindex(b"\r\n--x--") + len(b"\r\n--x--")
    for length in range(1, closing, 5):
        reply = request(guard, "POST", "/ask", content=FORM[:length], headers=AS_FORM)
        assert reply.status_code == 400
        assert "breaks off" in error_of(reply)["message"]
    gc.collect()  # pytest makes an error of a file that is closed only now
    assert request(guard, "POST", "/ask", content=FORM[:closing], headers=AS_FORM).status_code == 200


@pytest.mark.long
@pytest.mark.timeout(3600)
@given(data=st.data())
@settings(_WITHOUT_HURRY, max_examples=20_000, derandomize=False)
def test_very_many_requests_with_other_values_are_passed_on_or_refused(guard: ASGIApp, data: st.DataObject) -> None:
    path, body = with_other_values(data)
    is_passed_or_refused(guard, path, as_bytes(body))
