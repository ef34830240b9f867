"""Passes a connection from one process to another, together with the request that was read from it. No proxy, no new
connection: streaming, large bodies and disconnects work as usual.

A datagram on a Unix socket pair carries a word, the connection's descriptor (SCM_RIGHTS) and a memory file with the request's
bytes; what the client has sent beyond them is still unread in the kernel, and moves along. Supervisor and server have one end
each. The supervisor's only order, `leave`, goes the same way, so that it cannot overtake a connection.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

ENVIRONMENT_KEY = "ONECARD_HANDOVER_FD"
_LEAVE = b"leave"
_CONNECTION = b"connection"


@dataclass(frozen=True)
class Given:
    """A connection that now belongs to this process; `request` is what had been read from it, possibly nothing."""

    connection: socket.socket
    request: bytes


class Channel:
    """One end. Sending never waits: an end that nobody reads refuses connections once its buffer is full. `sent` and `received`
    count the requests in each direction, and `counted` is called at every change."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self.sent = self.received = 0
        self.counted: Callable[[], None] = lambda: None

    @classmethod
    def pair(cls) -> "tuple[Channel, Channel]":
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def inherited(cls) -> "Channel | None":
        """The end that the supervisor passed to this process; None where there is no supervisor."""
        descriptor = os.environ.get(ENVIRONMENT_KEY)
        return cls(socket.socket(fileno=int(descriptor))) if descriptor else None

    def fileno(self) -> int:
        return self._end.fileno()

    def order_to_leave(self) -> None:
        """Tells the server to give back every new request, finish the running ones, and say when that is done."""
        with contextlib.suppress(OSError):  # it is dead, and will be seen to be
            self._end.send(_LEAVE)

    def give(self, connection: socket.socket, request: bytes) -> bool:
        """Sends a connection and closes it here. False, and the connection is untouched, if the other end takes nothing."""
        memory = os.memfd_create("request")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(request)
            socket.send_fds(self._end, [_CONNECTION], [connection.fileno(), memory])
        except OSError:  # its buffer is full, or nobody has it any more
            return False
        finally:
            os.close(memory)
        connection.close()
        if request:
            self.sent += 1
            self.counted()
        return True

    def receive(self) -> "Given | bool":
        """A connection, True for the order to leave, or False once the other end is closed.

        Raises BlockingIOError when nothing has arrived.
        """
        word, descriptors, _, _ = socket.recv_fds(self._end, 64, 2, socket.MSG_CMSG_CLOEXEC)
        if word != _CONNECTION:
            return word == _LEAVE
        if len(descriptors) < 2:  # out of file descriptors: the client sees a closed connection, and asks again
            for descriptor in descriptors:
                os.close(descriptor)
            raise BlockingIOError
        connection, memory = descriptors
        with open(memory, "rb") as file:
            file.seek(0)
            given = Given(socket.socket(fileno=connection), file.read())
        if given.request:
            self.received += 1
            self.counted()
        return given

    def close(self) -> None:
        self._end.close()


def receive_all(channel: Channel, on_given: Callable[[Given], None], on_leave: Callable[[], None]) -> bool:
    """Handles everything that has arrived; False once nothing more can come."""
    while True:
        try:
            came = channel.receive()
        except BlockingIOError:
            return True
        except OSError:
            return False
        if isinstance(came, Given):
            on_given(came)
        elif came:
            on_leave()
        else:
            return False
