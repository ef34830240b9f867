"""The supervisor: opens the port once, starts the server process on it, answers while that cannot, restarts it when it
dies or hangs, puts it to sleep and wakes it, and ends everything on SIGTERM or Ctrl-C.

States: starting → warming → ready → draining → stopped; draining → asleep → starting again when somebody asks, for the same
model or for another; a crash or a hang → restarting with growing pauses → ready or given up.
"""

import asyncio
import contextlib
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from serving import exporter
from serving.console import Console
from serving.errors import GaveUpError, OnecardError
from serving.guard.keys import KeyRing
from serving.guard.state import capacity_of
from serving.handover import Channel
from serving.hold import Hold
from serving.holding import Holding
from serving.launch import Launch, child_environment
from serving.life import Ears, Life
from serving.notify import Notifier
from serving.plan import Plan
from serving.processes import SERVER, STOP_GRACE_S
from serving.progress import Progress, keep_typical, read_typical
from serving.restarts import Restarts, slept_s
from serving.room import Room
from serving.server_log import ServerLog
from serving.situation import Situation
from serving.sleeper import Sleeper
from serving.state_dir import ipc_dir
from serving.swap import Choice, next_model
from serving.waiting import Listener, WaitingRoom

# Ctrl-C ends everything within ten seconds, so running answers get less than after SIGTERM.
_CTRL_C_DRAIN_S = 2.0
# What an engine's death leaves the server process for telling its clients.
_LAST_WORDS_S = 1.0
# A machine that has slept for longer has switched its GPU off meanwhile.
_SLEPT_S = 5.0


class Supervisor:
    """One server on one socket. `run` returns when it was asked to stop, and raises OnecardError when it gave up.

    `command` starts the server process; the listening socket's number is its last word. `replan` makes a plan for the GPU
    memory that is free now, and None where nothing useful fits it. `others` are the models that a request may have in this
    one's place, by their names. With `until_ready` the first start is all: it ends then."""

    def __init__(
        self,
        launch: Launch,
        listening: socket.socket,
        command: tuple[str, ...] = SERVER,
        replan: Callable[[Launch], Plan | None] = lambda _: None,
        others: tuple[Launch, ...] = (),
        *,
        until_ready: bool = False,
    ) -> None:
        self._until_ready = until_ready
        self._choice = Choice((launch, *others))
        self._hold = Hold(capacity_of(launch.plan).queue)
        self._at = Situation(self._choice.launches[self._choice.current], self._hold)
        self._command = command
        self._listening = listening
        self._ring = KeyRing(launch.api_keys_file)
        self._console = Console()
        self._log = ServerLog(launch.run_dir / "server.log")
        self._stop = asyncio.Event()
        self._room = Room(self._at, self._console, replan, self._rest)
        self._sleeper = Sleeper(self._choice, self._hold, self._room, self._stop)
        self._drained = asyncio.Event()
        self._drain_s = launch.guard.drain_s
        self._restarts = Restarts()
        self._refusal: tuple[str, int] | None = None
        self._hang: str | None = None
        self._beat_at = 0.0
        self._life: Life | None = None
        self._notifier = Notifier.from_environment()
        # When a server that is to leave may be ended.
        self._left = asyncio.Event()
        self._leave_task: asyncio.Task[None] | None = None
        holding = Holding(self._hold, self._choice, launch.guard, self._at, self._way_to)
        room = WaitingRoom(
            self._at.status,
            lambda: self._at.doing,
            self._ring,
            launch.guard,
            holds=lambda: self._at.holds and not self._stop.is_set(),
            holding=holding,
            models=self._at.models,
        )
        self._waiting = Listener(room, listening)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a second one kills at once. SIGUSR1 is `onecard sleep`, SIGUSR2 `onecard wake`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked_to_stop, self._drain_s)
        loop.add_signal_handler(signal.SIGINT, self._asked_to_stop, min(self._drain_s, _CTRL_C_DRAIN_S))
        loop.add_signal_handler(signal.SIGUSR1, self._leave, "sleep", self._drain_s)
        loop.add_signal_handler(signal.SIGUSR2, self._asked_to_wake)
        self._at.note()
        alive = asyncio.create_task(self._alive())
        companion = await exporter.start_child(self._at.launch.port, self._at.launch.run_dir / "exporter.log")
        try:
            while not self._stop.is_set():
                if self._at.leaving:
                    await self._sleep()
                    continue
                with ipc_dir(self._at.launch.port) as ipc:
                    await self._serve_once(ipc)
                if self._stop.is_set() or self._at.leaving:
                    continue
                if self._at.launch.woken_at is not None:
                    self._could_not_wake()
                else:
                    pause_s = 0.0 if await self._waited_for_memory() else self._after_crash()
                    await self._pause(pause_s)
        finally:
            self._at.state = "stopped"
            self._notifier.stopping()
            self._hold.refuse(None, "the server is ended")
            await self._waiting.clear()
            alive.cancel()
            if companion and companion.returncode is None:
                companion.terminate()
                await companion.wait()
            self._listening.close()
            self._log.close()
            (self._at.launch.run_dir / "server.json").unlink(missing_ok=True)

    # --- one life of the server process ---

    async def _serve_once(self, ipc: Path) -> None:
        """One life of the server process: start, watch, and clear away."""
        launch = self._at.launch = self._at.launch.model_copy(
            update={"typical_s": read_typical(self._at.launch.run_dir, self._at.what)}
        )
        self._at.progress = Progress(launch.typical_s)
        self._at.ready_at = self._refusal = self._hang = None
        self._drained.clear()
        self._left.clear()
        self._log.begin()
        self._console.step(self._at.progress)
        await self._waiting.open()
        has_nvcc = shutil.which("nvcc") is not None
        environment = child_environment(launch.write(), ipc, has_nvcc=has_nvcc, compiles=launch.compiles)
        ears = Ears(self._logged, self._told, self._waiting.take)
        life = self._life = await Life.begin(self._command, self._listening, environment, ears)
        ticking = asyncio.create_task(self._tick(life))
        stop, left = (asyncio.create_task(event.wait()) for event in (self._stop, self._left))
        await asyncio.wait({life.ended, stop, left}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            await self._end(life)
        elif left.done():
            await life.process.stop(STOP_GRACE_S)
        else:
            await self._begin_restart()
            await life.process.clear()
        # Every writer is gone: log and control pipe are read to their ends, where a refusal may stand.
        await life.finish()
        for task in (ticking, stop, left):
            task.cancel()
        await asyncio.gather(ticking, stop, left, return_exceptions=True)
        self._life = None

    async def _end(self, life: Life) -> None:
        """Lets running answers finish, and then ends the server; the supervisor answers on the port to the last."""
        if self._at.state in ("ready", "draining") and self._drain_s > 0:
            self._console.say(f"Stopping; running answers get {self._drain_s:.0f} s …")
            life.process.drain()
            drained = asyncio.create_task(self._drained.wait())
            await asyncio.wait({drained, life.ended}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        else:
            self._console.say("Stopping …")
        self._at.state = "draining"
        await self._waiting.open()
        await life.process.stop(STOP_GRACE_S)

    def _logged(self, line: str) -> None:
        self._log.write(line)
        if self._at.state in ("starting", "restarting") and self._at.progress.see_log_line(line):
            self._console.step(self._at.progress)

    async def _told(self, event: dict[str, Any]) -> None:
        self._beat_at = time.monotonic()
        match event["event"]:
            case "listening" if not self._at.leaving:
                self._at.state = "warming"
                self._at.progress.begin("warmup")
                self._console.step(self._at.progress)
                self._waiting.close()
            case "ready" if not self._at.leaving:
                self._became_ready(event["measured"], event["wake_s"])
            case "idle":
                self._leave("sleep", None)
            case "drained":
                self._drained.set()
            case "hung":
                await self._give_up_on_it(event["reason"])
            case "failed":
                if self._at.launch.restarts == 0:  # later, it may have been a passing trouble: that is a crash
                    self._refusal = (event["reason"], GaveUpError.exit_code)
                if self._life:
                    await self._life.process.clear()
            case "refused":
                self._refusal = (event["reason"], event["exit_code"])

    def _became_ready(self, measured: dict[str, Any], wake_s: float | None) -> None:
        self._at.state = "ready"
        self._at.ready_at = time.monotonic()
        self._at.measured = measured
        seconds = self._at.progress.elapsed_s()
        keep_typical(self._at.launch.run_dir, self._at.what, self._at.progress.durations_s())
        if self._until_ready:
            self._console.say(f"Ready after {seconds:.0f} s; the caches are built.")
            self._asked_to_stop(0.0)
            return
        if self._at.launch.woken_at is None:
            self._console.ready(self._at.launch, seconds, keyed=bool(self._ring))
        else:
            self._console.say(f"Awake after {seconds:.0f} s, with {self._choice.current}.")
            self._at.launch = self._at.launch.model_copy(update={"woken_at": None, "wake_s": wake_s})
        self._notifier.ready(f"serving {self._choice.current} on {self._at.launch.url}")
        self._at.note()
        if self._life:
            self._life.process.remember_shared_memory()
            self._hold.release(self._choice.current, self._life.channel)
            self._waiting.give(self._life.channel)

    async def _tick(self, life: Life) -> None:
        slept = slept_s()
        while True:
            await asyncio.sleep(1)
            if self._at.state not in ("ready", "draining"):
                self._notifier.extend_start(60)
                self._notifier.status(f"{self._at.state}: {self._at.progress.title}")
                self._console.tick(self._at.progress)
                life.process.remember_shared_memory()
                continue
            silent_s = time.monotonic() - self._beat_at
            if silent_s > self._at.launch.guard.hang_timeout_s:
                await self._give_up_on_it(f"the server process has said nothing for {silent_s:.0f} s")
            elif slept_s() - slept > _SLEPT_S and self._at.launch.plan.gpu.name != "CPU":
                await self._give_up_on_it("the machine was suspended, and what was in the GPU's memory may be gone")
            elif self._at.state == "ready" and self._at.ready_at:
                self._waiting.give(life.channel)
                ready_s = time.monotonic() - self._at.ready_at
                if next_model(self._hold.waiting, self._choice.current, ready_s, self._at.launch.guard.min_stay_s):
                    self._leave("swap", None)

    async def _give_up_on_it(self, reason: str) -> None:
        """Kills a server that serves no more; `_serve_once` sees its end and goes on."""
        if self._stop.is_set() or not self._life:
            return
        if self._at.leaving:  # it is to end anyway
            self._drained.set()
        elif self._at.state == "ready":
            self._hang = reason
            await self._begin_restart()
            await asyncio.sleep(_LAST_WORDS_S)
            self._life.process.kill()

    async def _begin_restart(self) -> None:
        """From here on who asks is told what a start takes, and not that the last one is all but done."""
        self._at.state = "restarting"
        self._at.progress = Progress(read_typical(self._at.launch.run_dir, self._at.what))
        await self._waiting.open()

    # --- asleep ---

    def _leave(self, why: Literal["sleep", "swap"], drain_s: float | None) -> None:
        """Has the server finish what runs, within `drain_s` where that is bounded, and end; what comes meanwhile waits."""
        if self._at.state == "asleep" or self._stop.is_set():
            return
        self._at.leaving = "sleep" if self._at.leaving == "sleep" else why
        if self._leave_task is None or self._leave_task.done():
            self._leave_task = asyncio.create_task(self._drain(drain_s))

    async def _drain(self, drain_s: float | None) -> None:
        if self._at.state == "ready" and self._life:
            self._at.state = "draining"
            await self._waiting.open()
            self._life.channel.order_to_leave()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), drain_s)
        self._at.state = "draining"
        await self._waiting.open()
        self._left.set()

    async def _sleep(self) -> None:
        """Until somebody asks for a model whose memory is to be had: then that is what is started next."""
        swapping = self._at.leaving == "swap"
        self._at.leaving = None
        self._at.state = "asleep"
        self._at.asleep_since = time.time()
        await self._waiting.open()
        if not swapping:
            self._console.say("Asleep: the memory is given back, and the next request takes it again.")
            self._notifier.status("asleep")
            self._at.note()
        self._at.launch = await self._sleeper.until_wanted(self._at, swapping=swapping)
        if self._stop.is_set():
            return
        self._at.asleep_since = None
        self._at.measured = {}
        self._at.state = "starting"
        self._console.say(f"Waking up, with {self._choice.current} …")

    def _could_not_wake(self) -> None:
        """A start that somebody asked for failed: they are told, and the next who asks has another try."""
        why = self._refusal[0] if self._refusal else self._log.explain()
        self._console.say(f"{self._choice.current} could not be loaded: {why}")
        self._hold.refuse(self._choice.current, "the model could not be loaded; the server's log says why")
        self._at.launch = self._at.launch.model_copy(update={"woken_at": None})
        self._at.taken = "the model could not be loaded the last time; the server's log says why"
        self._at.leaving = "sleep"

    def _way_to(self, model: str) -> Channel | None:
        """The way to that model's server, if it is ready."""
        ready = self._at.state == "ready" and model == self._choice.current
        return self._life.channel if ready and self._life else None

    # --- after a crash ---

    def _after_crash(self) -> float:
        """The pause before the next start. Raises OnecardError when another would end as this one did."""
        if self._refusal:
            reason, code = self._refusal
            error = OnecardError(reason)
            error.exit_code = code
            raise error
        why = self._hang or self._log.explain()
        if self._at.ready_at is None and self._at.launch.restarts == 0:
            raise GaveUpError(f"The server ended before it was ready: {why}")
        ready_for_s = None if self._at.ready_at is None else time.monotonic() - self._at.ready_at
        pause_s = self._restarts.crashed(ready_for_s)
        if pause_s is None:
            raise GaveUpError(f"The server {self._restarts.too_many} and is not started again: {why}")
        return pause_s

    async def _waited_for_memory(self) -> bool:
        """Whether another program had taken the GPU's memory, of which a server dies: no crash loop, and no use starting
        another before it has been given back. Asks for it until then, or until the end."""
        if self._at.ready_at is None:
            return False

        def wanted() -> bool:
            return not (self._stop.is_set() or self._at.leaving)

        free = await self._room.until_free(self._at.launch, wanted)
        if free:
            self._at.launch = free.launch
        return free is not None and free.waited

    async def _pause(self, seconds: float) -> None:
        self._at.launch = self._at.launch.model_copy(update={"restarts": self._at.launch.restarts + 1})
        self._at.progress = Progress(self._at.launch.typical_s)
        what = f"The server was ended, since {self._hang}," if self._hang else "The server died"
        self._console.say(f"{what} and is started again (restart {self._at.launch.restarts}, in {seconds:.0f} s).")
        await self._rest(seconds)

    # --- what others ask and are told ---

    def _asked_to_stop(self, drain_s: float) -> None:
        if self._stop.is_set():
            self._drained.set()
            if self._life:
                self._life.process.kill()
        self._drain_s = drain_s
        self._stop.set()

    def _asked_to_wake(self) -> None:
        if self._at.state == "asleep" or self._at.leaving:
            self._sleeper.asked.set()

    async def _rest(self, seconds: float) -> None:
        """Waits for so long, or for the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _alive(self) -> None:
        """A hang of the server is this process's to see; its own is the service manager's."""
        while True:
            self._notifier.alive()
            await asyncio.sleep(1)
