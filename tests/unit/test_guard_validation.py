"""What the guard looks at in a request for an answer, before an application that notes what it gets."""

import asyncio
import base64
import json
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.guard.body import replay
from serving.guard.facts import facts
from serving.guard.pictures import PictureCost
from serving.guard.structured import MAX_SCHEMA_NODES
from serving.guard.validation import Validation
from serving.images.limits import MAX_SIDE
from serving.ipc.launch import Launch
from serving.planning.plan import Plan
from serving.prepare import prepare
from tests.asgi import CHAT, Recorder, by_hand, error_of, request
from tests.drawing import blank, encoded

COMPLETIONS = "/v1/completions"


def data_url(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


PICTURE = data_url(encoded(blank(64, 64)))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return prepare("cpu", "demo", gpu_memory_mib=8192).plan


@pytest.fixture(scope="module")
def model_folder() -> Path:
    return prepare("cpu", "demo", gpu_memory_mib=8192).resolved.download()


@pytest.fixture
def launch(plan: Plan, model_folder: Path, tmp_path: Path) -> Launch:
    return Launch(
        plan=plan, model_folder=model_folder, default_max_tokens=256, host="127.0.0.1", port=8123, run_dir=tmp_path
    )


def ask(launch: Launch, path: str = CHAT, **body: Any) -> httpx.Response:
    return request(Validation(Recorder(), launch), "POST", path, json=body)


def about(*urls: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]


HI = [{"role": "user", "content": "hi"}]


def refused(reply: httpx.Response, param: str | None, words: str = "") -> None:
    assert reply.status_code == 400, reply.text
    error = error_of(reply)
    assert error["param"] == param
    assert words in error["message"]
    assert len(reply.content) < 600


# --- bodies ---


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"5", b'"text"', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000,
        "{}".encode("utf-16"), b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e400}', b'{"a": [-1e999]}',
        b'{"a": 1' + b"0" * 400 + b"}", b'{"a": "\\ud800"}', b'{"a": [' + b"1," * 70_000 + b"1]}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_safe_json_object_is_refused(launch: Launch, body: bytes) -> None:
    reply = request(Validation(Recorder(), launch), "POST", CHAT, content=body)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_json")


# --- pictures ---


def pictures_at(url: Any) -> tuple[list[dict[str, Any]], ...]:
    """Requests with a picture there, in both of OpenAI's forms, alone and behind another."""
    responses = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    return about(url), about(PICTURE, url), responses


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x.png", "https://example.com/x.png", "HTTP://example.com", "file:///etc/passwd", "ftp://x/y"],
)
def test_a_picture_that_would_have_to_be_fetched_is_refused_with_the_flag_that_allows_it(
    launch: Launch, url: str
) -> None:
    for messages in pictures_at(url):
        refused(ask(launch, messages=messages), "messages", "--allow-image-urls")


@pytest.mark.parametrize(
    "url",
    [" data:image/png;base64,AAAA", PICTURE.partition(",")[2], "/etc/passwd", "", "javascript:0", "datax:,", "file-1"],
)
def test_what_is_no_address_at_all_is_told_to_be_a_data_url(launch: Launch, url: str) -> None:
    for messages in pictures_at(url):
        refused(ask(launch, messages=messages), "messages", "data:image/png;base64,")


def test_a_url_that_is_not_in_an_object_is_refused_with_the_form_of_it(launch: Launch) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": PICTURE}]}]
    refused(ask(launch, messages=messages), "messages", '{"url": "data:image/png;base64,')


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_base64_in_lines_passes(launch: Launch, end: str) -> None:
    lines = base64.encodebytes(encoded(blank(640, 480), "PNG", compress_level=0)).decode().replace("\n", end)
    assert ask(launch, messages=about("data:image/png;base64," + lines)).status_code == 200


@pytest.mark.parametrize(
    ("url", "status"),
    [("https://example.com/x.png", 200), ("http://x/y", 200), (PICTURE, 200), ("file:///etc/passwd", 400)],
)
def test_the_flag_allows_the_web_and_nothing_else(launch: Launch, url: str, status: int) -> None:
    allowed = launch.model_copy(update={"allow_image_urls": True})
    assert ask(allowed, messages=about(url)).status_code == status


def test_pictures_are_counted_over_the_whole_conversation_before_one_is_looked_at(launch: Launch) -> None:
    assert ask(launch, messages=about(PICTURE, PICTURE) * 2).status_code == 200
    refused(ask(launch, messages=about("data:,broken") * 5), "messages", "5 pictures; this profile takes 4")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {"url": 5}},
        {"type": "image_url", "image_url": {"url": PICTURE}, "uuid": "x"},
        {"type": "text", "text": "hi", "image_url": {"url": PICTURE}, "uuid": "x"},
        {"type": "refusal", "refusal": "hi", "video_url": {"url": PICTURE}, "uuid": 0},
        {"type": "image_url", "image_url": {"url": "data:image/png,abc"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!!"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
        {"type": "image_url", "image_url": {"url": "data:;base64," + base64.b64encode(b"<svg/>").decode()}},
        {"type": "image_url", "image_url": {"url": data_url(b"no picture" * 20_000)}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "prompt_embeds", "data": "AAAA"},
        {"type": "image_pil", "image_pil": 1},
        {"image_url": {"url": PICTURE}},
        {"type": ["image_url"], "image_url": {"url": PICTURE}},
        {"type": "text"},
        {"type": "text", "text": 5},
        {"type": "text", "text": "hi", "image": "x"},
        {"type": "text", "text": "hi", "video": None},
        "text",
        None,
    ],
)
def test_a_part_that_cannot_be_bounded_or_read_is_refused(launch: Launch, part: Any) -> None:
    refused(ask(launch, messages=[{"role": "user", "content": [part]}]), "messages")


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header says that size, with no pixel behind it."""
    picture = bytearray(encoded(blank(8, 8)))
    picture[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    picture[29:33] = zlib.crc32(bytes(picture[12:29])).to_bytes(4, "big")
    return bytes(picture)


@pytest.mark.parametrize("size", [(20_000, 20_000), (13_000, 13_000), (2**31 - 1, 1), (MAX_SIDE + 1, 300)])
def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header(launch: Launch, size: tuple[int, int]) -> None:
    refused(ask(launch, messages=about(data_url(png_header(*size)))), "messages", "megapixels at most")


def test_a_jpeg_with_a_long_preface_is_read_to_its_size(launch: Launch) -> None:
    plain = encoded(blank(40, 30), "JPEG")
    comments = (b"\xff\xfe" + (65_000).to_bytes(2, "big") + b"x" * 64_998) * 5
    assert ask(launch, messages=about(data_url(plain[:2] + comments + plain[2:]))).status_code == 200


def test_pictures_cost_what_the_plan_says(plan: Plan) -> None:
    cost = PictureCost.of(plan)
    assert cost.tokens(10**8) == cost.unknown() == plan.capacity.image_tokens + 2
    assert 0 < cost.tokens(1) <= cost.tokens(10_000) < cost.unknown()


def test_a_prompt_with_a_picture_is_not_truncated(launch: Launch) -> None:
    refused(ask(launch, messages=about(PICTURE), truncate_prompt_tokens=5), "truncate_prompt_tokens")
    assert ask(launch, messages=about(PICTURE), truncate_prompt_tokens=None).status_code == 200
    assert ask(launch, messages=HI, truncate_prompt_tokens=5).status_code == 200


# --- messages ---


@pytest.mark.parametrize(
    "messages",
    [
        None, [], {}, "hi", 5, [None], ["hi"], [{}], [{"content": "hi"}], [{"role": "king", "content": "hi"}],
        [{"role": ["user"], "content": "hi"}] , [{"role": "user", "content": 5}], [{"role": "user", "content": {}}],
        HI * 2000, [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2000}],
    ],
)  # fmt: skip
def test_messages_of_another_form_are_refused(launch: Launch, messages: Any) -> None:
    refused(ask(launch, messages=messages), "messages")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "look: <|image_pad|>"}],
        [{"role": "user", "content": [{"type": "text", "text": "<|vision_"}, {"type": "text", "text": "start|>"}]}],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "<|video_pad|>"}}]}],
        [{"role": "user", "content": "hi", "name": "<|vision_end|>"}],
    ],
)
def test_the_models_marks_for_pictures_cannot_be_typed(launch: Launch, messages: Any) -> None:
    refused(ask(launch, messages=messages), "messages", "mark for a picture")
    escaped = json.dumps({"messages": messages}).replace("|", "\\u007c")
    reply = request(Validation(Recorder(), launch), "POST", CHAT, content=escaped)
    refused(reply, "messages", "mark for a picture")


def called(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]


def test_a_calls_arguments_are_looked_at_as_the_chat_template_gets_them(launch: Launch) -> None:
    marked = json.dumps({"a": [{"<|image_pad|>": 1}]}).replace("<", "\\u003c")
    refused(ask(launch, messages=called(marked)), "messages", "mark for a picture")
    for unreadable in ("[" * 100_000, "9" * 5000):
        refused(ask(launch, messages=called(unreadable)), "messages", "cannot be read")
    for taken in ('{"a": "1 \\u003c 2"}', "{", ""):
        assert ask(launch, messages=called(taken)).status_code == 200


@pytest.mark.parametrize(
    "messages",
    [
        HI,
        [{"role": "user", "content": [{"type": "text", "text": "hi", "uuid": None, "cache_control": {"type": "x"}}]}],
        [{"role": "system", "content": "x"}, {"role": "user", "content": "1 <| 2"}],
        [{"role": "user", "content": "a\0b"}],
        [
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "content": "5", "tool_call_id": "x"},
        ],
        about(PICTURE, PICTURE),
    ],
)
def test_ordinary_conversations_pass(launch: Launch, messages: Any) -> None:
    assert ask(launch, messages=messages).json()["messages"] == messages


def test_an_unknown_model_is_404_and_the_known_ones_are_named(launch: Launch) -> None:
    reply = ask(launch, model="gpt-4o", messages=HI)
    assert (reply.status_code, error_of(reply)["code"]) == (404, "model_not_found")
    assert "onecard-demo" in error_of(reply)["message"]
    assert ask(launch, model="demo", messages=HI).status_code == 200


# --- parameters ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "{{ 1 }}"), ("mm_processor_kwargs", {"size": {"longest_edge": 2**40}}),
        ("media_io_kwargs", {"image": {}, "video": {"num_frames": 10**6}}), ("cache_salt", "x"), ("priority", -1),
        ("kv_transfer_params", {"a": 1}), ("ec_transfer_params", {"a": 1}), ("vllm_xargs", {"a": 1}),
        ("prompt_embeds", "AAAA"), ("prompt_logprobs", 5), ("use_beam_search", True), ("request_id", "mine"),
        ("functions", [{"name": "f"}]), ("guided_choice", ["red"]), ("guided_json", {"type": "object"}),
        ("audio", {"voice": "x"}),
        ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}), ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {"x": [1]}), ("chat_template_kwargs", 5),
        ("n", 5), ("n", 0), ("n", True), ("n", "2"), ("n", 1.5), ("temperature", 2.5), ("temperature", -1),
        ("temperature", "1"), ("temperature", True), ("top_p", 1.1), ("min_p", -0.1), ("presence_penalty", 3),
        ("frequency_penalty", -3), ("repetition_penalty", 0), ("repetition_penalty", 100), ("top_logprobs", 21),
        ("top_logprobs", -1), ("top_k", -2), ("min_tokens", -1), ("min_tokens", 10**6), ("max_tokens", 0),
        ("max_tokens", -1), ("max_tokens", "7"), ("max_tokens", 1.5), ("max_completion_tokens", 0),
        ("stop", ["x"] * 5), ("stop", ["x" * 300]), ("stop", [5]), ("stop", {}), ("bad_words", ["x"] * 65),
        ("stop_token_ids", [1] * 65), ("allowed_token_ids", [1] * 5000), ("logprob_token_ids", [1] * 21),
        ("logit_bias", {str(i): 1 for i in range(301)}), ("logit_bias", {"5": 101}), ("logit_bias", [1]),
        ("tools", [{}] * 129), ("tools", [{"type": "function"}]), ("tools", ["x"]), ("logprobs", 21), ("logprobs", -1),
        ("user", "x" * 600), ("user", 5), ("seed", 2**64), ("thinking_token_budget", -1),
    ],
)  # fmt: skip
def test_a_parameter_out_of_its_bounds_is_named(launch: Launch, name: str, value: Any) -> None:
    reply = ask(launch, messages=HI, **{name: value})
    assert reply.status_code == 400
    assert error_of(reply)["param"] == (name if value != 2**64 else None)


def test_echo_with_logprobs_would_cost_those_of_the_prompt(launch: Launch) -> None:
    refused(ask(launch, COMPLETIONS, prompt="hi", echo=True, logprobs=5), "echo")
    assert ask(launch, COMPLETIONS, prompt="hi", echo=True).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0, "top_p": 1, "n": 4, "seed": -5, "stop": "x", "user": "me", "priority": 0},
        {"logprobs": True, "top_logprobs": 20, "presence_penalty": -2, "logit_bias": {"5": -100}},
        {"chat_template": None, "chat_template_kwargs": {"enable_thinking": False}, "cache_salt": None, "tools": None},
        {"stop": ["a", "b"], "min_tokens": 5, "top_k": -1, "temperature": None, "response_format": None},
    ],
)
def test_ordinary_parameters_pass_as_they_are(launch: Launch, given: dict[str, Any]) -> None:
    reply = ask(launch, messages=HI, max_tokens=7, **given)
    assert reply.json() == {"messages": HI, "max_tokens": 7, **given}


@pytest.mark.parametrize("given", [{}, {"max_tokens": None}, {"max_completion_tokens": None}])
def test_an_answer_of_unsaid_length_is_bounded(launch: Launch, given: dict[str, Any]) -> None:
    assert ask(launch, messages=HI, **given).json()["max_tokens"] == 256
    assert ask(launch, COMPLETIONS, prompt="hi").json()["max_tokens"] == 256


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("asked", "given"), [(7, 7), (7.0, 7), (32_768, 1024), (10**15, 1024)])
def test_a_length_beyond_what_there_can_be_is_clamped(launch: Launch, key: str, asked: float, given: int) -> None:
    assert ask(launch, messages=HI, **{key: asked}).json()[key] == given


# --- constraints on the answer ---


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


BAD_SCHEMAS: list[Any] = [
    5, "x", deep(40), {"enum": ["x"] * (MAX_SCHEMA_NODES + 1)}, {"type": "string", "maxLength": 10**9},
    {"type": "array", "minItems": 100_000}, {"type": "string", "pattern": "((a+)+)+$"}, {"$ref": "http://x/y"},
    {"patternProperties": {"(((x*)*)*)*": {}}}, {"description": "x" * 40_000},
]  # fmt: skip


@pytest.mark.parametrize("schema", BAD_SCHEMAS, ids=lambda schema: str(schema)[:30])
def test_a_schema_that_could_take_long_to_compile_is_refused(launch: Launch, schema: Any) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    refused(ask(launch, messages=HI, response_format=format_), "response_format")
    refused(ask(launch, messages=HI, structured_outputs={"json": schema}), "structured_outputs")
    tools = [{"type": "function", "function": {"name": "x", "parameters": schema}}]
    refused(ask(launch, messages=HI, tools=tools), "tools")


@pytest.mark.parametrize(
    "outputs",
    [
        {}, {"regex": "a", "choice": ["b"]}, {"grammar": "root ::= 'x'"}, {"structural_tag": "{}"}, {"regex": ""},
        {"regex": "((a*)*)*b"}, {"regex": "a{1,100000}"}, {"regex": "(a{200}){200}"}, {"regex": "x" * 600},
        {"regex": "a\0b"}, {"regex": "("}, {"regex": 5}, {"choice": []}, {"choice": ["x"] * 300}, {"choice": [5]},
        {"json": "{"}, "x", {"regex": "a{999999999999}"}, {"whitespace_pattern": "x", "regex": "a"},
    ],
)  # fmt: skip
def test_a_constraint_that_could_take_long_to_compile_is_refused(launch: Launch, outputs: Any) -> None:
    refused(ask(launch, messages=HI, structured_outputs=outputs), "structured_outputs")


@pytest.mark.parametrize(
    "format_",
    [
        {}, "json", {"type": "structural_tag"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    ],
)  # fmt: skip
def test_a_response_format_of_another_form_is_refused(launch: Launch, format_: Any) -> None:
    refused(ask(launch, messages=HI, response_format=format_), "response_format")


@pytest.mark.parametrize(
    "given",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": deep(5)}}},
        {"structured_outputs": {"regex": r"\d{4}-\d{2}-\d{2}( [a-z]+)*"}},
        {"structured_outputs": {"regex": r"[^(]+\(((a|b)c?)+\)"}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"tools": [{"type": "function", "function": {"name": "x", "parameters": deep(3)}}]},
    ],
)
def test_ordinary_constraints_pass(launch: Launch, given: dict[str, Any]) -> None:
    assert ask(launch, messages=HI, **given).status_code == 200


# --- completions ---


@pytest.mark.parametrize("prompt", [None, 5, [], [None], [""] * 9, [[]], [[2034]], [1, 2034, 3], [1, "x"], [True]])
def test_a_prompt_of_another_form_or_with_the_ids_of_pictures_is_refused(launch: Launch, prompt: Any) -> None:
    refused(ask(launch, COMPLETIONS, prompt=prompt), "prompt")


@pytest.mark.parametrize("prompt", ["hi", ["hi", "ho"], [5, 6, 7], [[5], [6]]])
def test_an_ordinary_prompt_passes(launch: Launch, prompt: Any) -> None:
    assert ask(launch, COMPLETIONS, prompt=prompt).json()["prompt"] == prompt


def test_a_typed_mark_in_a_prompt_is_refused(launch: Launch) -> None:
    assert ask(launch, COMPLETIONS, prompt="<|image_pad|>").status_code == 400


# --- what is handed on ---


def weighed(launch: Launch, body: dict[str, Any], key: str = "") -> tuple[Recorder, Any]:
    app = Recorder()
    scope: dict[str, Any] = {
        "headers": [(b"content-length", b"2"), (b"transfer-encoding", b"chunked"), (b"x-other", b"1")]
    }
    facts(scope).key = key
    by_hand(Validation(app, launch), scope, {"type": "http.request", "body": json.dumps(body).encode()})
    return app, facts(scope).cost


def test_a_request_is_weighed_by_its_text_its_pictures_and_its_longest_answer(launch: Launch, plan: Plan) -> None:
    _, small = weighed(launch, {"messages": HI, "max_tokens": 10})
    _, more = weighed(launch, {"messages": HI, "max_tokens": 10, "n": 4})
    _, large = weighed(launch, {"messages": about(data_url(encoded(blank(2000, 2000)))), "max_tokens": 10})
    assert more.kv_tokens == small.kv_tokens + 30 + 1  # and the name of `n` itself
    assert (small.encoder_tokens, large.encoder_tokens) == (0, plan.capacity.image_tokens + 2)
    assert large.kv_tokens < small.kv_tokens + plan.capacity.image_tokens + 60  # its base64 counts as no text


def test_the_length_that_is_declared_is_that_of_the_new_body(launch: Launch) -> None:
    app, _ = weighed(launch, {"messages": HI})
    assert app.scopes[0]["headers"] == [(b"x-other", b"1"), (b"content-length", str(len(app.bodies[0])).encode())]


@pytest.mark.parametrize("space", ["", " ", "\n\t "])
def test_a_body_is_changed_in_its_last_word_only(launch: Launch, space: str) -> None:
    text = f'{space}{{{space}"messages": {json.dumps(HI)}, "max_tokens": 99999, "x": "\\u4f60"{space}}}{space}'
    reply = request(Validation(Recorder(), launch), "POST", CHAT, content=text)
    assert reply.json() == {"messages": HI, "max_tokens": 1024, "x": "你"}
    assert request(Validation(Recorder(), launch), "POST", COMPLETIONS, content=b"{ }").status_code == 400


def test_of_two_values_of_one_name_the_guard_sees_the_one_that_vllm_takes(launch: Launch) -> None:
    text = f'{{"messages": {json.dumps(HI)}, "n": 1, "n": 400}}'
    refused(request(Validation(Recorder(), launch), "POST", CHAT, content=text), "n")


def test_each_key_has_a_cache_of_its_own_that_nobody_can_name(launch: Launch) -> None:
    layer = Validation(Recorder(), launch)
    salts = []
    for key in ("", "alice", "bob", "alice"):
        scope: dict[str, Any] = {"type": "http", "path": CHAT, "headers": []}
        facts(scope).key = key
        body, _ = layer._checked(scope, json.dumps({"messages": HI}).encode())
        salts.append(json.loads(body).get("cache_salt"))
    assert salts[0] is None
    assert salts[1] == salts[3] != salts[2]
    assert "alice" not in salts[1]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(PICTURE) | st.just("https://x/y.png"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "content", "image_url", "url", "type", "max_tokens"]), inner)
    ),
)


@given(body=st.fixed_dictionaries({"messages": _JSON}, optional={"max_tokens": _JSON, "stop": _JSON, "tools": _JSON}))
def test_any_json_is_refused_or_passed_on_without_a_picture_to_fetch(
    plan: Plan, model_folder: Path, body: dict[str, Any]
) -> None:
    made = Launch(
        plan=plan, model_folder=model_folder, default_max_tokens=256, host="127.0.0.1", port=8123, run_dir=model_folder
    )
    app = Recorder()
    answers, _ = by_hand(Validation(app, made), {}, {"type": "http.request", "body": json.dumps(body).encode()})
    if answers[0]["status"] == 200:
        assert b"https://x/y.png" not in app.bodies[0] or not asks_for_a_fetch(json.loads(app.bodies[0]))
    else:
        assert answers[0]["status"] == 400
        assert app.bodies == []


def asks_for_a_fetch(body: dict[str, Any]) -> bool:
    """By vLLM's reading: a part of a message's list of parts with a web URL under `image_url`."""
    contents = [each.get("content") for each in body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    images = [part["image_url"] for part in parts if "image_url" in part]
    return any((image.get("url") if isinstance(image, dict) else image) == "https://x/y.png" for image in images)


def test_what_was_replayed_is_followed_by_what_the_connection_says() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def read() -> list[str]:
        receive = replay(b"x", gone)
        return [(await receive())["type"] for _ in range(3)]

    assert asyncio.run(read()) == ["http.request", "http.disconnect", "http.disconnect"]
