"""The connections of one uvicorn server: taken from another process, and given away to it (ipc/handover.py)."""

import asyncio

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from serving.guard.connection import EXTENSION, Connection
from serving.ipc.handover import Channel, Given

# Headers of the hop that has been made: the body has been read, and its length is known.
_OF_THE_HOP = frozenset({b"content-length", b"transfer-encoding", b"expect"})


class Front:
    """`config` and `state` are uvicorn's own; `state` is shared by all connections, so that its end waits for these too."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        self.config = config
        self.state = state
        self._taking: set[asyncio.Task[object]] = set()

    @classmethod
    def of(cls, app: ASGIApp) -> "Front":
        """One without a server: whoever holds it opens the door."""
        config = uvicorn.Config(app, http=Connection, ws="none", log_config=None, access_log=False, lifespan="off")
        config.load()
        return cls(config, ServerState())

    def connection(self, given: bytes | None = None) -> Connection:
        return Connection(config=self.config, server_state=self.state, app_state={}, given=given)

    def take(self, given: Given) -> None:
        """Serves the connection from where the other process has read it."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(
            loop.connect_accepted_socket(lambda: self.connection(given.request), given.connection)
        )
        self._taking.add(task)  # the loop keeps no hold of its tasks
        task.add_done_callback(self._taken)

    def give_idle(self, channel: Channel) -> int:
        """Gives every connection away that is between two requests; how many others there are."""
        connections = list(self.state.connections)
        idle = [each for each in connections if isinstance(each, Connection) and each.idle]
        given = sum(each.give(channel, b"") for each in idle)
        return len(connections) - given

    def _taken(self, task: "asyncio.Task[object]") -> None:
        self._taking.discard(task)
        if not task.cancelled():
            task.exception()  # the client has left meanwhile: there is nobody to tell


def give_request(scope: Scope, body: bytes, channel: Channel) -> bool:
    """Gives the request away with its connection; the caller must not answer it any more. False where that is impossible: the
    request came from inside this process, the client has pipelined others or has left, or the other end takes nothing."""
    connection = scope.get("extensions", {}).get(EXTENSION, {}).get("connection")
    if not isinstance(connection, Connection) or not connection.whole or connection.transport.is_closing():
        return False
    return connection.give(channel, _request(scope, connection.url, body))


def was_given(scope: Scope) -> bool:
    """Whether another process gave us this request."""
    return bool(scope.get("extensions", {}).get(EXTENSION, {}).get("given"))


def _request(scope: Scope, url: bytes, body: bytes) -> bytes:
    """The request as bytes, with the id that it was given here."""
    lines = [scope["method"].encode() + b" " + url + b" HTTP/" + scope["http_version"].encode()]
    lines += [name + b": " + value for name, value in scope["headers"] if name not in _OF_THE_HOP]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])
