"""What happens below ASGI and at its edge, over real sockets: heads, stalls, early answers, origins."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard import connection
from serving.guard.body import Body
from serving.guard.content import Content
from serving.guard.early import Early
from serving.guard.origin import Origin
from serving.guard.respond import refuse
from tests.asgi import CHAT, Recorder, by_hand, error_of, request
from tests.listening import listening

LONG = 640 * 2**20


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A small guard over a real port: what comes with a body to /early is refused unread."""
    read = Body(Recorder(), max_bytes=2**20, timeout_s=0.5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = refuse(401, "no key") if scope["path"] == "/early" else read
        if scope["path"] == "/long":
            answer = _endless
        await answer(scope, receive, send)

    with listening(Early(app), http=connection.Connection, ws="none") as port:
        yield port


async def _endless(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(LONG // 65_536):
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})


def spoken(port: int, *words: bytes) -> tuple[int, dict[str, str]]:
    """Status and error of what the server answers to these bytes, read to the connection's end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for word in words:
            client.sendall(word)
        answer = b""
        while data := client.recv(65_536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


START = b"GET / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ((START + b"x: " + b"y" * 40_000 + b"\r\n\r\n",), 431),
        ((START + b"x: " + b"y" * 200_000,), 431),
        ((START + b"x: y\r\n" * 101 + b"\r\n",), 431),
        ((CHUNKED + b"2\r\n{}\r\n0\r\nx: ", b"y" * 200_000), 431),
        ((b"GET /" + b"y" * 9_000 + b" HTTP/1.1\r\n\r\n",), 431),
        ((b"nonsense\r\n\r\n",), 400),
        ((b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",), 400),
        ((b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",), 400),
    ],
    ids=["huge", "endless", "many", "trailer", "url", "nonsense", "smuggled", "space"],
)
def test_a_head_that_cannot_be_taken_is_refused_and_the_connection_closed(
    port: int, words: tuple[bytes, ...], status: int
) -> None:
    answered, error = spoken(port, *words)
    assert (answered, error["code"]) == (status, "bad_http")


@pytest.mark.parametrize("words", [b"", b"\r\n", b"GET / HT", START + b"x: y\r\n"])
def test_a_head_that_does_not_come_to_an_end_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)
    answered, error = spoken(port, words)
    assert answered == 400
    assert "did not arrive" in error["message"]


def test_a_second_head_on_the_same_connection_is_not_waited_for_either(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(START + b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        time.sleep(0.4)  # an idle connection is uvicorn's to close, after its keep-alive
        client.sendall(START)
        assert client.recv(65_536).startswith(b"HTTP/1.1 400")
        assert client.recv(65_536) == b""


def test_a_reader_that_takes_nothing_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_TIMEOUT_S", 0.3)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.settimeout(20)
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1)
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65_536):
                taken += len(data)
    assert taken < LONG // 10


@pytest.mark.parametrize("size", [10, 100_000, 5 * 2**20, 40 * 2**20])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_early_refusal_reaches_a_client_that_is_still_sending(port: int, size: int, chunked: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, size, 65_536):
            yield b"x" * min(65_536, size - start)

    body = pieces() if chunked else b"x" * size
    reply = httpx.post(f"http://127.0.0.1:{port}/early", content=body, timeout=20, trust_env=False)
    assert (reply.status_code, reply.headers["connection"]) == (401, "close")
    assert error_of(reply)["message"] == "no key"


def test_a_client_that_waits_for_100_continue_sends_no_body(port: int) -> None:
    head = (
        b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert spoken(port, head)[0] == 401


def test_a_body_that_stalls_is_408(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    status, error = spoken(port, head)
    assert (status, error["code"]) == (408, "request_timeout")


def test_a_websocket_is_answered_as_any_request(port: int) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(START + upgrade + b"\r\n")
        assert b"101" not in client.recv(65_536).split(b"\r\n")[0]


# --- origins and hosts ---


def origin(*hosts: str, origins: tuple[str, ...] = ()) -> Origin:
    return Origin(Recorder(), hosts, origins)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("192.168.1.5", 200),
        ("app.localhost:8000", 200), (socket.gethostname(), 200), ("localhost.:8000", 200), ("gpu.lan:8000", 200),
        ("host.docker.internal:8000", 200), ("host.containers.internal:8000", 200), ("evil.docker.internal", 421),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example:8000", 421), ("", 421),
        ("evil.example:127.0.0.1", 421), ("[::1", 200), ("evil@localhost", 421),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered_to(host: str, status: int) -> None:
    reply = request(origin("gpu.lan"), "GET", "/v1/models", headers={"Host": host})
    assert reply.status_code == status
    if status == 421:
        assert "--allow-host" in error_of(reply)["message"]


@pytest.mark.parametrize("headers", [[], [(b"host", b"localhost"), (b"host", b"evil.example")]])
def test_a_request_has_one_host(headers: list[tuple[bytes, bytes]]) -> None:
    answers, _ = by_hand(origin(), {"headers": headers})
    assert answers[0]["status"] == 421


@pytest.mark.parametrize(
    ("page", "status"),
    [
        ("http://evil.example", 403), ("null", 403), ("https://localhost.evil.example", 403), ("http://localhost:3000", 403),
        ("http://localhost", 200), ("https://localhost", 200), ("https://app.example", 200), ("HTTPS://APP.example", 200),
        ("http://[localhost", 403), ("http://[::1", 403), ("localhost", 403),
    ],
)  # fmt: skip
def test_a_web_page_of_another_origin_is_refused(page: str, status: int) -> None:
    layer = origin(origins=("https://app.example",))
    reply = request(layer, "POST", "/ask", headers={"Origin": page})
    assert reply.status_code == status
    allowed = reply.headers.get("access-control-allow-origin")
    assert allowed == ("https://app.example" if "app.example" in page.lower() and status == 200 else None)


def test_a_preflight_is_answered_for_an_allowed_origin_only() -> None:
    layer = origin(origins=("https://app.example",))
    reply = request(layer, "OPTIONS", CHAT, headers={"Origin": "https://app.example"})
    assert (reply.status_code, reply.headers["vary"]) == (204, "Origin")
    # The key, which the star does not stand for, and whatever an SDK adds (x-stainless-…).
    assert reply.headers["access-control-allow-headers"] == "authorization, *"
    assert request(layer, "OPTIONS", CHAT, headers={"Origin": "https://other.example"}).status_code == 403


@pytest.mark.parametrize("as_given", ["file://", "file:"])  # the command line takes slashes off the end
def test_a_desktop_program_can_be_allowed(as_given: str) -> None:
    for origins, status in (((as_given,), 200), ((), 403)):
        assert request(origin(origins=origins), "POST", CHAT, headers={"Origin": "file://"}).status_code == status


# --- what a body says it is ---


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (CHAT, {"Content-Type": "application/json"}, 200),
        (CHAT, {"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
        (CHAT, {"Content-Type": "application/json", "Content-Encoding": "identity"}, 200),
        (CHAT, {}, 415),
        (CHAT, {"Content-Type": "text/plain"}, 415),
        (CHAT, {"Content-Type": "application/json; charset=utf-16"}, 415),
        (CHAT, {"Content-Type": "application/jsonp"}, 415),
        (CHAT, {"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (CHAT, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ("/ask", {"Content-Type": "multipart/form-data; boundary=x"}, 200),
        ("/ask", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("/ask", {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "br"}, 415),
    ],
)
def test_a_body_of_another_kind_is_refused(path: str, headers: dict[str, str], status: int) -> None:
    reply = request(Content(Recorder()), "POST", path, headers=headers)
    assert reply.status_code == status
    if status == 415:
        assert error_of(reply)["code"] == "unsupported_media_type"
