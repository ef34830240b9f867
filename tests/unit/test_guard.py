"""The guard's layers, each before a plain ASGI application; test_guard_stack.py has all of them together."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from serving.errors import ConfigError
from serving.guard import engine
from serving.guard.body import Body
from serving.guard.keys import Key, KeyRing, Keys, read_keys
from serving.guard.routes import ROUTES, Routes
from serving.ipc.settings import GuardSettings
from serving.ipc.status import retry_after
from serving.supervisor.waiting import WaitingRoom
from tests.asgi import CHAT, Recorder, by_hand, error_of, request


def ring(folder: Path, text: str) -> KeyRing:
    (folder / "keys").write_text(text, encoding="utf-8")
    return KeyRing(folder / "keys")


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
def test_only_a_known_key_opens_the_server(tmp_path: Path, header: dict[str, str], status: int) -> None:
    app = Recorder()
    keys = ring(tmp_path, "a:secret\nb:second:with:colons\n")
    reply = request(Keys(app, keys), "GET", "/v1/models", headers=header)
    assert reply.status_code == status
    assert len(app.scopes) == (status == 200)
    if status == 401:
        assert error_of(reply)["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"


@given(header=st.binary(max_size=40))
def test_no_header_but_the_key_itself_is_let_in(tmp_path_factory: pytest.TempPathFactory, header: bytes) -> None:
    app = Recorder()
    keys = ring(tmp_path_factory.getbasetemp(), "a:a-long-random-word")
    answers, _ = by_hand(Keys(app, keys), {"headers": [(b"authorization", header)]})
    assert answers[0]["status"] == 401
    assert app.scopes == []


def test_without_keys_everything_passes() -> None:
    assert request(Keys(Recorder(), KeyRing(None)), "GET", "/v1/models").status_code == 200


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
        (":one tokens/day=5", {"line-1": b"one"}),  # a name is what its quotas are counted under
        ("alice:schlüssel", {"alice": "schlüssel".encode()}),
    ],
)
def test_the_key_file_is_read_as_a_person_writes_it(tmp_path: Path, text: str, keys: dict[str, bytes]) -> None:
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    assert {name: key.secret for name, key in read_keys(file).items()} == keys


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"alice:\n", b"\xff\xfe\x00"])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigError, match="keys"):
        read_keys(tmp_path / "keys")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """The first of the two keys would not be let in, and nobody told."""
    (tmp_path / "keys").write_text("alice:old\nbob:two\nalice:new\n")
    with pytest.raises(ConfigError, match=r"line 3: the name 'alice' stands twice"):
        read_keys(tmp_path / "keys")


def test_a_missing_key_file_is_refused_and_the_environment_adds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "none")
    assert read_keys(None) == {}
    monkeypatch.setenv("ONECARD_API_KEY", "three")
    assert read_keys(None) == {"ONECARD_API_KEY": Key(b"three")}
    (tmp_path / "keys").write_text("alice:one")
    assert {key.secret for key in read_keys(tmp_path / "keys").values()} == {b"one", b"three"}


@pytest.mark.parametrize(("given", "keys"), [("three\n", [b"three"]), ("\n", [])])
def test_the_newline_of_a_secret_is_no_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, given: str, keys: list[bytes]
) -> None:
    monkeypatch.setenv("ONECARD_API_KEY", given)
    assert [key.secret for key in read_keys(None).values()] == keys


def test_a_key_may_have_quotas(tmp_path: Path) -> None:
    keys = ring(tmp_path, "alice:one requests/minute=60 tokens/day=1000\nbob:two\n")
    assert keys.quotas("alice") == {"requests/minute": 60, "tokens/day": 1000}
    assert keys.quotas("bob") == {}


@pytest.mark.parametrize(
    "words", ["request/minute=60", "tokens/day=many", "tokens/day", "rpm=5", "tokens/day=²", f"tokens/day={'9' * 5000}"]
)
def test_a_quota_that_does_not_exist_is_refused_with_the_known_ones(tmp_path: Path, words: str) -> None:
    with pytest.raises(ConfigError, match=r"line 1.*/"):
        ring(tmp_path, f"alice:one {words}")


def test_keys_that_were_added_and_withdrawn_are_seen_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.guard.keys._LOOK_EVERY_S", 0.0)
    keys = ring(tmp_path, "alice:one")
    assert (keys.name_of(b"one"), keys.name_of(b"two")) == ("alice", None)
    (tmp_path / "keys").write_text("bob:two # added")
    assert (keys.name_of(b"one"), keys.name_of(b"two")) == (None, "bob")
    (tmp_path / "keys").write_text("")  # as an editor leaves it for a moment
    assert keys.name_of(b"two") == "bob"
    (tmp_path / "keys").unlink()
    assert keys.name_of(b"two") == "bob"


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


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/moderations", "/v1/files", "/v1/images/generations", "/x"])
def test_what_is_far_from_every_route_names_none(path: str) -> None:
    assert "Did you mean" not in error_of(request(Routes(Recorder()), "POST", path))["message"]


def test_responses_are_told_of_chat_completions() -> None:
    assert "/v1/chat/completions" in error_of(request(Routes(Recorder()), "POST", "/v1/responses"))["message"]


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


# --- the waiting room, which answers while there is no server process ---


def waiting_room(seconds_left: float | None, keys: KeyRing | None = None) -> WaitingRoom:
    status = {"state": "starting", "seconds_left": seconds_left}
    return WaitingRoom(lambda: status, lambda: "loading the weights", keys or KeyRing(None), GuardSettings())


@pytest.mark.parametrize(("left", "header"), [(None, "15"), (0.2, "5"), (33.4, "42"), (4000.0, "60")])
def test_while_nothing_serves_the_step_and_the_time_are_told(left: float | None, header: str) -> None:
    reply = request(waiting_room(left), "POST", CHAT, json={})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, header)
    message = error_of(reply)["message"]
    assert "starting: loading the weights" in message
    assert ("33 s left" in message) == (left == 33.4)


def test_the_waiting_room_has_the_same_doors_as_the_server(tmp_path: Path) -> None:
    room = waiting_room(None, ring(tmp_path, "a:secret"))
    header = {"Authorization": "Bearer secret"}
    assert request(room, "GET", "/health").status_code == 200
    assert (request(room, "GET", "/ready").status_code, request(room, "GET", "/ready").json()["ready"]) == (503, False)
    assert {request(room, "POST", path).status_code for path in ("/health", "/ready")} == {405}
    assert request(room, "GET", "/onecard/status").status_code == 401
    assert request(room, "GET", "/onecard/status", headers=header).json()["state"] == "starting"
    assert request(room, "GET", "/tokenize", headers=header).status_code == 404
    assert request(room, "GET", "/v1/models", headers=header | {"Host": "evil.example"}).status_code == 421


@given(st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_the_time_to_ask_again_is_a_sensible_number_of_seconds(left: float | None) -> None:
    assert 5 <= retry_after(left) <= 60


# --- vLLM ---


def test_vllms_variables_stay_what_they_are_once_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs

    monkeypatch.setenv("VLLM_COMPUTE_NANS_IN_LOGITS", "0")
    engine.keep_environment()
    try:
        monkeypatch.setenv("VLLM_COMPUTE_NANS_IN_LOGITS", "1")
        assert envs.VLLM_COMPUTE_NANS_IN_LOGITS is False
    finally:
        envs.disable_envs_cache()
    assert envs.VLLM_COMPUTE_NANS_IN_LOGITS is True
