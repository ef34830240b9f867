"""Watches what the engine does rather than what it says: an engine that hangs answers no question and raises no flag.

Progress is a change of vLLM's own token counters, or an answer to a canary: a request for one token through vLLM's API, sent
when no progress has been seen for a while. If the canary stays unanswered while nothing else moves, the server is `stalled`;
after the hang timeout the supervisor is told to restart it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Scope

from serving.guard import engine, in_process
from serving.guard.state import ServerState
from serving.ipc import control

logger = logging.getLogger("vllm.onecard")

_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
# `/ready` leaves 200 within 10 s of lost progress under load, and within 30 s when idle.
CANARY_IDLE_S = 20.0
CANARY_BUSY_S = 4.0
STALLED_S = 4.0
_LOOK_EVERY_S = 0.5


class Watchdog:
    """Runs once the warm-up is done. Tells the supervisor that this process lives, and when the engine no longer does; then
    calls `abandon`, so that no more clients come here."""

    def __init__(self, vllm: ASGIApp, state: ServerState, lifespan: Scope, abandon: Callable[[], None]) -> None:
        self._vllm = vllm
        self._state = state
        self._scope = lifespan
        self._abandon = abandon
        self._counted = -1.0
        self._progress_at = time.monotonic()
        self._canary: asyncio.Task[None] | None = None
        self._canary_at = 0.0

    async def run(self) -> None:
        """Runs until the server stops, or the supervisor has been told to restart it."""
        drained = False
        self._state.look = self._look_at_engine
        while self._state.state != "restarting":
            self._look(time.monotonic())
            control.tell(event="beat")
            ending = self._state.state == "draining" and not self._state.leaving
            if (
                ending and not drained and not self._state.presence.here
            ):  # a request whose body is still being read counts too
                drained = True
                control.tell(event="drained")
            await asyncio.sleep(_LOOK_EVERY_S)

    def _look(self, now: float) -> None:
        self._look_at_engine()
        if self._state.state == "restarting":
            return
        counted = _tokens()
        if counted != self._counted:
            self._counted = counted
            self._progress(now)
        if self._canary is None:
            quiet = CANARY_BUSY_S if self._state.admission.running else CANARY_IDLE_S
            if now - self._progress_at > quiet:
                self._canary_at = now
                self._canary = asyncio.create_task(self._ask())
            return
        silent_s = now - max(self._progress_at, self._canary_at)
        if silent_s > self._state.launch.guard.hang_timeout_s:
            self._give_up(f"the engine has made no progress for {silent_s:.0f} s")
        elif silent_s > STALLED_S and self._state.state == "ready":
            logger.warning("no progress for %.0f s: not ready until the engine moves again", silent_s)
            self._state.state = "stalled"

    def _look_at_engine(self) -> None:
        if self._state.state != "restarting" and engine.is_dead(self._scope):
            self._give_up("the engine process died")

    async def _ask(self) -> None:
        """Sends the canary. Any answer is progress: the engine's own, or vLLM saying what is wrong."""
        body = {
            "model": self._state.launch.model_names[0],
            "max_tokens": 1,
            "messages": [{"role": "user", "content": "?"}],
        }
        try:
            async with in_process.client(self._vllm, self._scope) as client:
                reply = await client.post("/v1/chat/completions", json=body)
            if reply.status_code != 200:
                logger.warning("the canary was answered with %d", reply.status_code)
        except Exception as error:  # whatever vLLM raises, it has moved; a dead engine is seen by `is_dead`
            logger.warning("the canary was answered with an error: %s", error)
        self._canary = None
        self._progress(time.monotonic())

    def _progress(self, now: float) -> None:
        self._progress_at = now
        if self._state.state == "stalled":
            logger.warning("the engine moves again")
            self._state.state = "ready"

    def _give_up(self, reason: str) -> None:
        logger.error("%s: it is started again", reason)
        self._state.state = "restarting"
        self._state.admission.turn_away()  # before the kill breaks their connections
        self._abandon()
        control.tell(event="hung", reason=reason)


def _tokens() -> float:
    """Tokens that the engine has read and written so far; constant where this vLLM has other names for its counters."""
    metrics = REGISTRY.restricted_registry(_COUNTERS).collect()
    return sum(sample.value for metric in metrics for sample in metric.samples)
