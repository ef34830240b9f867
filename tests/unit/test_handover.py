"""A connection that goes from one server to another in the middle of its life, over real sockets."""

import asyncio
import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.guard.body import Body, replay, whole_body
from serving.guard.connection import Connection
from serving.guard.front import Front, give_request
from serving.ipc.handover import Channel, Given, receive_all
from tests.asgi import Recorder, request
from tests.listening import listening


class Giving:
    """Gives away what comes to /away, and answers the rest."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.given: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await whole_body(receive)
        if scope["path"] == "/away":
            self.given.append(give_request(scope, body, self.channel))
            if self.given[-1]:
                return
        await Recorder()(scope, replay(body, receive), send)


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    here, there = Channel.pair()
    try:
        yield here, there
    finally:
        here.close()
        there.close()


@contextmanager
def giving() -> Iterator[tuple[int, Giving, Channel]]:
    with channels() as (here, there):
        app = Giving(here)
        with listening(Body(app, 2**20), http=Connection, ws="none") as port:
            yield port, app, there


def heard(channel: Channel) -> list[Given | str]:
    """All that has come."""
    found: list[Given | str] = []
    if not receive_all(channel, found.append, lambda: found.append("leave")):
        found.append("end")
    return found


def test_a_request_goes_with_its_connection_and_with_what_its_client_sends_later() -> None:
    with giving() as (port, app, there):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("POST", "/", b"x")
        client.getresponse().read()  # it was of use here before
        body = b"x" * 300_000
        client.request("POST", "/away?a=%2F", body, {"Expect": "100-continue", "X-One": "1"})
        while not app.given:
            time.sleep(0.01)
        (given,) = heard(there)
        assert isinstance(given, Given)
        head, _, read = given.request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /away?a=%2F HTTP/1.1\r\n")
        assert b"\r\nx-one: 1\r\n" in head
        assert head.endswith(b"content-length: 300000")
        assert b"expect" not in head
        assert read == body
        with given.connection as connection:
            connection.setblocking(True)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            answer = client.getresponse()
            assert answer.read() == b"hi"
            client.send(b"more")
            assert connection.recv(10) == b"more"
        assert client.sock.recv(1) == b""
        client.close()


def test_who_has_sent_more_than_one_request_at_once_is_not_given_away() -> None:
    with giving() as (port, app, _), socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(2 * b"POST /away HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        assert app.given[0] is False


def test_a_request_from_inside_the_process_has_no_connection_to_give() -> None:
    with channels() as (here, _):
        app = Giving(here)
        assert request(app, "POST", "/away", content=b"x").status_code == 200
        assert app.given == [False]


def test_what_nobody_takes_stays_and_is_answered_here() -> None:
    with giving() as (port, app, there):
        there.close()
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        client.request("POST", "/away", b"x")
        assert client.getresponse().read() == b"x"
        assert app.given == [False]
        client.close()


def test_an_answer_goes_to_its_end_before_its_connection_is_given_away() -> None:
    answer = b"x" * 2**25

    async def given(here: Channel, there: Channel) -> None:
        front = Front.of(Response(answer))
        async with await asyncio.get_running_loop().create_server(front.connection, "127.0.0.1", 0) as door:
            reader, writer = await asyncio.open_connection(*door.sockets[0].getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while not front.state.total_requests:  # written, and not yet read
                await asyncio.sleep(0.01)
            assert front.give_idle(here) == 1
            assert heard(there) == []
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(answer)) == answer
            assert front.give_idle(here) == 0
            (left,) = heard(there)
            assert isinstance(left, Given)
            left.connection.close()
            writer.close()

    with channels() as (here, there):
        asyncio.run(given(here, there))


def test_orders_and_ends_are_told() -> None:
    with channels() as (here, there):
        assert heard(there) == []
        here.order_to_leave()
        assert heard(there) == ["leave"]
        here.close()
        assert heard(there) == ["end"]
