"""How the server leaves without losing a request: running ones are finished, new ones go back to the supervisor with their
connections. It leaves on the supervisor's order, or by itself when it has been idle for long enough: only this process can
know that no request has arrived at this very moment.

Connections also come in here: those that the supervisor held while this server was loading.
"""

import asyncio
from typing import Any

from starlette.types import Scope

from serving.guard.front import Front
from serving.guard.state import ServerState
from serving.ipc import control
from serving.ipc.handover import receive_all

_LOOK_EVERY_S = 0.2
# How often a connection in the middle of a probe or of a request's head is looked at again before it is closed.
_LAST_LOOKS = 5


class Leaving:
    """Runs once the warm-up is done, if there is a supervisor to exchange connections with."""

    def __init__(self, state: ServerState, lifespan: Scope) -> None:
        self._state = state
        # vLLM keeps its uvicorn server there (entrypoints/launchers/launcher.py, serve_http).
        self._server: Any = lifespan["app"].state.server
        self._front = Front(self._server.config, self._server.server_state)

    async def run(self) -> None:
        """Runs until everything has been given back."""
        state, channel = self._state, self._state.channel
        if channel is None:
            return
        loop = asyncio.get_running_loop()

        def receive() -> None:
            if not receive_all(channel, self._front.take, self._leave):
                loop.remove_reader(channel.fileno())

        loop.add_reader(channel.fileno(), receive)
        try:
            idle_s = state.launch.guard.idle_unload_s
            while not state.leaving:
                await asyncio.sleep(_LOOK_EVERY_S)
                if idle_s is not None and state.state == "ready" and state.idle_s() > idle_s:
                    control.tell(event="idle")
                    self._leave()
            while state.presence.here:
                await asyncio.sleep(_LOOK_EVERY_S)
            for _ in range(_LAST_LOOKS):
                if not self._front.give_idle(channel):
                    break
                await asyncio.sleep(_LOOK_EVERY_S)
            control.tell(event="drained")
        finally:
            loop.remove_reader(channel.fileno())

    def abandon(self) -> None:
        """The engine is lost and this process is about to be killed: the supervisor accepts connections from now on, and gets
        the idle ones. Requests under way are answered or moved by status.py and elsewhere.py."""
        self._close_door()
        if self._state.channel:
            self._front.give_idle(self._state.channel)

    def _leave(self) -> None:
        """From now on the supervisor accepts connections; the requests that are here are finished."""
        self._state.leave()
        self._close_door()

    def _close_door(self) -> None:
        for each in self._server.servers:
            each.close()
