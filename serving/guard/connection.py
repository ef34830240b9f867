"""The HTTP protocol below ASGI: limits the size of a request's head and the time that a connection may stall, and passes
connections to other processes or takes them over (ipc/handover.py).

uvicorn's httptools protocol has no such limits, and its h11 protocol no deadlines. What is refused here never reaches a layer
of the guard.
"""

import asyncio
import os
import socket
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.ipc.handover import Channel
from serving.ipc.status import error_body

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_URL_BYTES = 8 * 1024
# From the connection's begin, or the head's first byte, to its end.
HEAD_TIMEOUT_S = 10.0
# How long a refused client has to read its answer before the connection is closed.
LINGER_S = 1.0
# A client that reads nothing for this long has left, whatever its socket says.
WRITE_TIMEOUT_S = 30.0
# ASGI's place for what a server adds: a layer finds the connection of its request there.
EXTENSION = "onecard"


class _HeadTooLargeError(httptools.HttpParserError):
    pass


class Connection(HttpToolsProtocol):
    """One connection. A refusal at this level has OpenAI's shape too, and closes it.

    `given` is what another process has read from it; None for a connection that was accepted here."""

    def __init__(self, *args: Any, given: bytes | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given = given
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_body = False
        self._was_body = False
        self._head_bytes = 0
        self._head_too_large = False
        self._refused = False

    # --- the head ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._given is None:
            self._await_head()
        elif self._given:
            self.data_received(self._given)
        else:  # between two requests
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self._given = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if not self._in_body:
            self._await_head()
        self._was_body = False
        super().data_received(data)
        if not self._was_body and (self._in_body or self._head_timer):
            # Bytes that the parser has not passed to a callback: above all a header without end, before a body or after it.
            self._head_bytes += len(data)
            if self._head_bytes > 2 * MAX_HEAD_BYTES and not self._refused:
                self._head_too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self, "given": bool(self._given)}}
        self._head_bytes = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url), len(self.url) > MAX_URL_BYTES)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value), len(self.headers) > MAX_HEADERS)

    def _count(self, size: int, too_many: bool) -> None:
        self._head_bytes += size
        if too_many or self._head_bytes > MAX_HEAD_BYTES:
            self._head_too_large = True
            raise _HeadTooLargeError  # uvicorn answers a parser's error with send_400_response

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._head_bytes = 0
        self._cancel_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._was_body = True
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refused = True
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()  # nothing may be written between the bytes of an answer
            return
        if self._head_too_large:
            status = 431
            msg = f"The request's head is too large: {MAX_HEADERS} headers and {MAX_HEAD_BYTES // 1024} KiB are taken."
        else:
            status = 400
        body = error_body(msg, "invalid_request_error", code="bad_http")
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        # Closed at once, with bytes still arriving, the kernel would reset the connection and the client lose the answer.
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _head_is_late(self) -> None:
        if not self.transport.is_closing() and not self._refused:
            if self.cycle is None or self.cycle.response_complete:
                self.send_400_response(f"The request's head did not arrive within {HEAD_TIMEOUT_S:.0f} seconds.")
            else:  # an answer to an earlier request is under way: nothing may be written between its bytes
                self.transport.close()

    def _cancel_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    # --- given away ---

    @property
    def idle(self) -> bool:
        """No part of a request has been read, and no answer is under way."""
        answering = self.cycle is not None and not self.cycle.response_complete
        return not answering and self.whole and not self._refused and not self.transport.is_closing()

    @property
    def whole(self) -> bool:
        """No part of a further request has been read, which another process would miss."""
        return not (self._in_head or self._in_body or self.pipeline)

    def give(self, channel: Channel, request: bytes) -> bool:
        """Gives the connection away with the bytes of its request. It ends in this process, and the client notices nothing.
        False, and it stays as it is, if the other end takes nothing or the client has not yet read all of an earlier
        answer."""
        if self.transport.get_write_buffer_size():
            return False
        # The event loop does not run until both steps are done, so nothing is read in between.
        apart = socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno()))
        if not channel.give(apart, request):
            apart.close()
            return False
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the application still sends goes nowhere
        self.transport.abort()
        return True

    # --- slow readers, and the end ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def _cancel_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
