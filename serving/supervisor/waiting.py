"""Answers on the port while no server process does: 503 with the running step and the time left; or, for a request that the
model is being loaded for, a wait (holding.py)."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.early import Early
from serving.guard.front import Front
from serving.guard.keys import KeyRing, Keys
from serving.guard.models import models_answer
from serving.guard.origin import Origin
from serving.guard.page import Page
from serving.guard.respond import asks_again, not_ready, probe
from serving.guard.routes import ANSWERS, Routes
from serving.ipc.handover import Channel, Given
from serving.ipc.settings import GuardSettings
from serving.metrics.status import status_metrics

# How long answers under way get to finish when the waiting room is cleared.
_LAST_ANSWERS_S = 1.0


class WaitingRoom:
    """An ASGI application; `status` gives the JSON of `/onecard/status`, `doing` the running step in words. While `holds`
    (which is told whether the request asks again) says yes, `holding` answers requests that need a model, and `models` gives
    the list of models. `metrics` answers `/metrics`; without it, the status does."""

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        doing: Callable[[], str],
        ring: KeyRing,
        settings: GuardSettings,
        *,
        holds: Callable[[bool], bool] = lambda _again: False,
        holding: ASGIApp | None = None,
        metrics: ASGIApp | None = None,
        models: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._status = status
        self._doing = doing
        self._holds = holds
        self._holding = holding
        self._models = models
        behind_the_probes = Page(Keys(Routes(self._answer), ring))
        self._app = Origin(behind_the_probes, settings.allowed_hosts, settings.allowed_origins)
        self._door = Early(self._probes)
        self._metrics = metrics or status_metrics(status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)

    async def _probes(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._status()["state"]
        await (probe(scope, state, ready=state == "ready") or self._app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/metrics":
            await self._metrics(scope, receive, send)
            return
        status = self._status()
        if scope["path"] == "/onecard/status":
            await JSONResponse(status)(scope, receive, send)
            return
        if self._holding and self._holds(asks_again(scope)):
            if scope["path"] in ANSWERS:
                await self._holding(scope, receive, send)
            else:
                await models_answer(scope["path"], self._models())(scope, receive, send)
            return
        answer = not_ready(status["state"], self._doing(), status["seconds_left"], close=True)
        await answer(scope, receive, send)


class Listener:
    """Serves an application on a duplicate of a listening socket; the socket itself stays open when it stops."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self._front = Front.of(app)
        self._listening = listening
        self._door: asyncio.Server | None = None

    async def open(self) -> None:
        """Starts accepting connections."""
        if self._door is None:
            loop = asyncio.get_running_loop()
            self._door = await loop.create_server(self._front.connection, sock=self._listening.dup(), backlog=2048)

    def close(self) -> None:
        """Stops accepting connections; those that are here stay."""
        if self._door:
            self._door.close()
        self._door = None

    def take(self, given: Given) -> None:
        """Takes a connection that the server gives back."""
        self._front.take(given)

    def give(self, channel: Channel) -> None:
        """Gives the server the connections that are between two requests."""
        self._front.give_idle(channel)

    async def clear(self) -> None:
        """Closes all connections that are here, after a moment for the answers under way."""
        self.close()
        for connection in list(self._front.state.connections):
            connection.shutdown()
        if tasks := self._front.state.tasks:
            _, late = await asyncio.wait(tasks, timeout=_LAST_ANSWERS_S)
            for task in late:
                task.cancel()
