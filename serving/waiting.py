"""Who answers on the port while the server process does not: 503 with the step that is running and how long it takes."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.connection import Connection
from serving.guard.early import Early
from serving.guard.keys import KeyRing, Keys
from serving.guard.origin import Origin
from serving.guard.page import Page
from serving.guard.respond import not_ready, probe
from serving.guard.routes import Routes
from serving.guard.settings import GuardSettings
from serving.metrics.status import status_metrics


class WaitingRoom:
    """An ASGI application; `status` gives the JSON of `/onecard/status`, `doing` the running step in words."""

    def __init__(
        self, status: Callable[[], dict[str, Any]], doing: Callable[[], str], ring: KeyRing, settings: GuardSettings
    ) -> None:
        self._status = status
        self._doing = doing
        behind_the_probes = Page(Keys(Routes(self._answer), ring))
        self._app = Origin(behind_the_probes, settings.allowed_hosts, settings.allowed_origins)
        self._door = Early(self._probes)
        self._metrics = status_metrics(status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)

    async def _probes(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (probe(scope, self._status()["state"], ready=False) or self._app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/metrics":
            await self._metrics(scope, receive, send)
            return
        status = self._status()
        if scope["path"] == "/onecard/status":
            await JSONResponse(status)(scope, receive, send)
            return
        answer = not_ready(status["state"], self._doing(), status["seconds_left"], close=True)
        await answer(scope, receive, send)


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the supervisor's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Listener:
    """Serves an application on a duplicate of a listening socket; the socket itself stays open when it stops."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self._app = app
        self._listening = listening
        self._server: _QuietServer | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            config = uvicorn.Config(
                self._app,
                http=Connection,
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
            self._server = _QuietServer(config)
            self._task = asyncio.create_task(self._server.serve(sockets=[self._listening.dup()]))

    async def stop(self) -> None:
        if self._server and self._task:
            self._server.should_exit = True
            await self._task
        self._server = self._task = None
