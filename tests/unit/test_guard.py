"""The guard's layers, each before a plain ASGI application; test_guard_stack.py has all of them together."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ConfigError
from serving.guard.body import Body
from serving.guard.chat import Chat
from serving.guard.keys import Keys, read_keys
from serving.guard.routes import ROUTES, Routes
from serving.profile import Limits
from serving.status import retry_after
from serving.waiting import WaitingRoom
from tests.asgi import CHAT, Recorder, by_hand, error_of, request

PICTURE = "data:image/png;base64,AAAA"
LIMITS = Limits(max_image_pixels=4096, max_images_per_request=2, max_body_mib=1)


# --- keys ---


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"Authorization": "bearer  secret "}, 200),
        ({"Authorization": "Bearer second:with:colons"}, 200),
        ({"Authorization": "Bearer Secret"}, 401),
        ({"Authorization": "Bearer secret2"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"Authorization": "secret"}, 401),
        ({"X-API-Key": "secret"}, 401),
    ],
)
def test_only_a_known_key_opens_the_server(header: dict[str, str], status: int) -> None:
    app = Recorder()
    reply = request(Keys(app, {"a": b"secret", "b": b"second:with:colons"}), "GET", "/v1/models", headers=header)
    assert reply.status_code == status
    assert len(app.scopes) == (status == 200)
    if status == 401:
        assert error_of(reply)["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"


@given(st.binary(max_size=40))
def test_no_header_but_the_key_itself_is_let_in(header: bytes) -> None:
    app = Recorder()
    answers, _ = by_hand(Keys(app, {"a": b"a-long-random-word"}), {"headers": [(b"authorization", header)]})
    assert answers[0]["status"] == 401
    assert app.scopes == []


def test_without_keys_everything_passes() -> None:
    assert request(Keys(Recorder(), {}), "GET", "/v1/models").status_code == 200


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("alice:one\nbob:two\n", {"alice": b"one", "bob": b"two"}),
        ("alice:with:colons", {"alice": b"with:colons"}),
        ("  alice : one \r\n", {"alice": b"one"}),
        ("# a comment:x\n\nalice:one", {"alice": b"one"}),
        ("just-a-key", {"line-1": b"just-a-key"}),
        ("\ufeffjust-a-key", {"line-1": b"just-a-key"}),
        ("alice:\nbob:two", {"bob": b"two"}),
        ("alice:schlüssel", {"alice": "schlüssel".encode()}),
    ],
)
def test_the_key_file_is_read_as_a_person_writes_it(tmp_path: Path, text: str, keys: dict[str, bytes]) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    assert read_keys(file) == keys


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"alice:\n", b"\xff\xfe\x00"])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match="keys"):
        read_keys(tmp_path / "keys")


def test_a_missing_key_file_is_refused_and_the_environment_adds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "none")
    assert read_keys(None) == {}
    monkeypatch.setenv("ONECARD_API_KEY", "three")
    assert read_keys(None) == {"ONECARD_API_KEY": b"three"}
    (tmp_path / "keys").write_text("alice:one")
    assert set(read_keys(tmp_path / "keys").values()) == {b"one", b"three"}


# --- routes ---


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_a_route_takes_its_methods_and_no_other(path: str) -> None:
    app = Recorder()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "X" * 1000):
        reply = request(Routes(app), method, path)
        assert reply.status_code == (200 if method in ROUTES[path] else 405)
        if reply.status_code == 405:
            assert reply.headers["allow"] == ", ".join(sorted(ROUTES[path]))
            assert len(reply.content) < 400


@given(
    st.text(max_size=60) | st.sampled_from(sorted(ROUTES)).flatmap(lambda path: st.sampled_from([path + "/", path[1:]]))
)
def test_every_other_path_is_404_and_reaches_nothing(path: str) -> None:
    app = Recorder()
    if "/" + path not in ROUTES:
        answers, _ = by_hand(Routes(app), {"path": "/" + path})
        assert answers[0]["status"] == 404
        assert app.scopes == []


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/status", "/onecard/status"),
        ("/healthz", "/health"),
        ("/aks", "/ask"),
    ],
)
def test_a_near_miss_names_the_right_url(path: str, meant: str) -> None:
    message = error_of(request(Routes(Recorder()), "GET", path))["message"]
    assert f"Did you mean {meant}?" in message


def test_a_websocket_is_closed() -> None:
    answers, _ = by_hand(Routes(Recorder()), {"type": "websocket", "path": "/v1/realtime"})
    assert answers == [{"type": "websocket.close", "code": 1008}]


# --- bodies ---


def chunks_of(body: bytes, sizes: list[int]) -> list[Message]:
    parts, rest = [], body
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    return [
        *({"type": "http.request", "body": part, "more_body": True} for part in parts),
        {"type": "http.request", "body": rest, "more_body": False},
    ]


@given(st.binary(max_size=300), st.lists(st.integers(0, 100), max_size=6))
def test_a_body_arrives_whole_however_it_was_cut_and_never_above_the_limit(body: bytes, sizes: list[int]) -> None:
    app = Recorder()
    answers, _ = by_hand(Body(app, max_bytes=200), {}, *chunks_of(body, sizes))
    if len(body) <= 200:
        assert app.bodies == [body]
    else:
        assert app.bodies == []
        assert answers[0]["status"] == 413


def test_a_length_over_the_limit_is_refused_before_a_byte_is_read() -> None:
    scope = {"headers": [(b"content-length", b"999999999999")]}
    answers, asked = by_hand(Body(Recorder(), max_bytes=2**20), scope, *chunks_of(b"x", []))
    assert (answers[0]["status"], asked) == (413, 0)
    assert b"larger than 1 MiB" in answers[1]["body"]


def test_an_endless_body_is_given_up_at_the_limit() -> None:
    endless: list[Message] = [{"type": "http.request", "body": b"x" * 100, "more_body": True}] * 50
    answers, asked = by_hand(Body(Recorder(), max_bytes=1000), {}, *endless)
    assert (answers[0]["status"], asked) == (413, 11)


def test_below_the_body_the_client_can_still_be_seen_leaving() -> None:
    seen: list[Message] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        seen.extend([await receive(), await receive()])

    by_hand(Body(app, 100), {}, *chunks_of(b"hello", [2]), {"type": "http.disconnect"})
    assert seen == [{"type": "http.request", "body": b"hello", "more_body": False}, {"type": "http.disconnect"}]


# --- chat ---


def chat(app: ASGIApp, *, allow_image_urls: bool = False) -> Chat:
    return Chat(app, LIMITS, 256, allow_image_urls=allow_image_urls)


def about(*urls: Any, **more: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], **more}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.png", "https://example.com/x.png", "HTTP://example.com", "file:///etc/passwd", "ftp://x/y",
        " data:image/png;base64,AAAA", "/etc/passwd", "", "javascript:0", "datax:,",
    ],
)  # fmt: skip
def test_a_picture_that_would_have_to_be_fetched_is_refused_with_the_flag_that_allows_it(url: str) -> None:
    app = Recorder()
    for body in (
        about(url),
        about(PICTURE, url),
        {"messages": [{"content": [{"type": "image_url", "image_url": url}]}]},
    ):
        reply = request(chat(app), "POST", CHAT, json=body)
        assert reply.status_code == 400
        assert "--allow-image-urls" in error_of(reply)["message"]
    assert app.scopes == []


@pytest.mark.parametrize(
    ("url", "status"),
    [("https://example.com/x.png", 200), ("http://x/y", 200), (PICTURE, 200), ("file:///etc/passwd", 400)],
)
def test_the_flag_allows_the_web_and_nothing_else(url: str, status: int) -> None:
    assert request(chat(Recorder(), allow_image_urls=True), "POST", CHAT, json=about(url)).status_code == status


def test_pictures_are_counted_over_the_whole_conversation() -> None:
    def turns(count: int) -> dict[str, Any]:
        return {"messages": about(PICTURE)["messages"] * count}

    assert request(chat(Recorder()), "POST", CHAT, json=turns(2)).status_code == 200
    reply = request(chat(Recorder()), "POST", CHAT, json=turns(3))
    assert reply.status_code == 400
    assert "3 pictures; this profile takes 2" in error_of(reply)["message"]


@pytest.mark.parametrize("url", [None, 5, {"a": 1}, [PICTURE]])
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    reply = request(chat(Recorder()), "POST", CHAT, json=about(url))
    assert (reply.status_code, error_of(reply)["param"]) == (400, "messages")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"5", b'"text"', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 5000, "{}".encode("utf-16")],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    reply = request(chat(Recorder()), "POST", CHAT, content=body)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("given", [{}, {"max_tokens": None}, {"max_completion_tokens": None}])
def test_an_answer_of_unsaid_length_is_bounded(given: dict[str, Any]) -> None:
    reply = request(chat(Recorder()), "POST", CHAT, json=about(PICTURE, **given))
    assert reply.json() == about(PICTURE, **given) | {"max_completion_tokens": 256}
    assert reply.status_code == 200


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_a_length_that_was_asked_for_leaves_the_body_untouched(key: str) -> None:
    body = json.dumps(about(PICTURE, **{key: 7}), indent=3).encode()
    assert request(chat(Recorder()), "POST", CHAT, content=body).content == body


def test_the_length_that_is_declared_is_that_of_the_new_body() -> None:
    app = Recorder()
    scope = {"headers": [(b"content-length", b"2"), (b"transfer-encoding", b"chunked"), (b"x-other", b"1")]}
    by_hand(chat(app), scope, {"type": "http.request", "body": b"{}"})
    assert app.scopes[0]["headers"] == [(b"x-other", b"1"), (b"content-length", str(len(app.bodies[0])).encode())]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(PICTURE) | st.just("https://x/y.png"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "content", "image_url", "url", "type", "max_tokens"]), inner)
    ),
)


@given(st.fixed_dictionaries({"messages": _JSON}, optional={"max_tokens": _JSON}))
def test_any_json_is_refused_or_passed_on_with_its_content(body: dict[str, Any]) -> None:
    app = Recorder()
    message = {"type": "http.request", "body": json.dumps(body).encode()}
    answers, _ = by_hand(chat(app), {}, message)
    if answers[0]["status"] == 200:
        passed = json.loads(app.bodies[0])
        assert {key: passed[key] for key in body} == body
        assert not asks_for_a_fetch(passed)
    else:
        assert answers[0]["status"] == 400
        assert app.bodies == []


def asks_for_a_fetch(body: dict[str, Any]) -> bool:
    """By vLLM's reading: a part of a message's list of parts with a web URL under `image_url`."""
    messages = body["messages"] if isinstance(body["messages"], list) else []
    contents = [each.get("content") for each in messages if isinstance(each, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    images = [part["image_url"] for part in parts if "image_url" in part]
    return any((image.get("url") if isinstance(image, dict) else image) == "https://x/y.png" for image in images)


# --- the waiting room, which answers while there is no server process ---


def waiting_room(seconds_left: float | None, keys: dict[str, bytes] | None = None) -> WaitingRoom:
    status = {"state": "starting", "seconds_left": seconds_left}
    return WaitingRoom(lambda: status, lambda: "loading the weights", keys or {})


@pytest.mark.parametrize(("left", "header"), [(None, "5"), (0.2, "1"), (33.4, "33"), (4000.0, "120")])
def test_while_nothing_serves_the_step_and_the_time_are_told(left: float | None, header: str) -> None:
    reply = request(waiting_room(left), "POST", CHAT, json={})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, header)
    message = error_of(reply)["message"]
    assert "starting: loading the weights" in message
    assert ("33 s left" in message) == (left == 33.4)


def test_the_waiting_room_has_the_same_doors_as_the_server() -> None:
    room = waiting_room(None, {"a": b"secret"})
    header = {"Authorization": "Bearer secret"}
    assert request(room, "GET", "/health").status_code == 200
    assert (request(room, "GET", "/ready").status_code, request(room, "GET", "/ready").json()["ready"]) == (503, False)
    assert request(room, "GET", "/onecard/status").status_code == 401
    assert request(room, "GET", "/onecard/status", headers=header).json()["state"] == "starting"
    assert request(room, "GET", "/tokenize", headers=header).status_code == 404


@given(st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_the_time_to_ask_again_is_a_sensible_number_of_seconds(left: float | None) -> None:
    assert 1 <= retry_after(left) <= 120
