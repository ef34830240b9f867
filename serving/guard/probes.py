"""`/health` and `/ready`, open to everyone, and the warm-up that must pass before `/ready` says 200."""

import asyncio
import logging
import signal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.engine.measured import measure_and_learn
from serving.engine.warmup import warm_up
from serving.guard import engine, in_process
from serving.guard.leaving import Leaving
from serving.guard.respond import probe
from serving.guard.state import ServerState
from serving.guard.watchdog import Watchdog
from serving.ipc import control

logger = logging.getLogger("vllm.onecard")


class Probes:
    """When the application has started, warms `vllm` up directly, bypassing the guard; then starts the watchdog."""

    def __init__(self, app: ASGIApp, state: ServerState, vllm: ASGIApp) -> None:
        self.app = app
        self._state = state
        self._vllm = vllm
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await self.app(scope, receive, self._after_startup(scope, send))
            finally:
                if self._task:
                    self._task.cancel()
            return
        ready = (self._state.state == "ready" and not engine.is_dead(scope)) or self._state.others_serve
        await (probe(scope, self._state.state, ready=ready) or self.app)(scope, receive, send)

    def _after_startup(self, lifespan: Scope, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._state.drain)
                control.tell(event="listening")
                self._task = asyncio.create_task(self._live(lifespan))

        return wrapped

    async def _live(self, lifespan: Scope) -> None:
        state = self._state
        try:
            log = state.launch.run_dir / "server.log"
            state.measured |= await measure_and_learn(lifespan["app"], state.launch.plan, log)
            async with in_process.client(self._vllm, lifespan) as client:
                state.measured |= await warm_up(client, state.launch.model_names[0], state.launch.plan)
        except Exception as error:  # whatever it is: a server that cannot answer must not be called ready
            logger.exception("the warm-up failed")
            control.tell(event="failed", reason=f"the warm-up request failed: {error}")
            return
        engine.keep_environment()
        state.ready()
        control.tell(event="ready", measured=state.measured, wake_s=state.launch.wake_s)
        leaving = Leaving(state, lifespan)
        task = asyncio.create_task(leaving.run())
        try:
            await Watchdog(self._vllm, state, lifespan, leaving.abandon).run()
        finally:
            task.cancel()
