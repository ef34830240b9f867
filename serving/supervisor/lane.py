"""One card's server from start to end: started, watched, restarted when it dies or hangs, and stopped. The port, sleep and the
shutdown belong to the supervisor, which is the lane's `House`; what a death means is `aftermath.py`'s question.
"""

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from serving.errors import GaveUpError, OnecardError
from serving.guard.suspects import Suspects
from serving.ipc.board import Board
from serving.ipc.handover import Given
from serving.ipc.launch import child_environment
from serving.machine.notify import Notifier
from serving.machine.processes import STOP_GRACE_S
from serving.machine.progress import Progress, keep_typical, read_typical
from serving.machine.state_dir import ipc_dir
from serving.supervisor.aftermath import Aftermath
from serving.supervisor.console import Console
from serving.supervisor.life import Ears, Life
from serving.supervisor.restarts import slept_s
from serving.supervisor.room import Replan, Room
from serving.supervisor.server_log import ServerLog
from serving.supervisor.situation import Stage

# How long the server process has, once its engine is given up, to answer its clients.
_LAST_WORDS_S = 1.0
# A machine that was suspended for longer has powered its GPU off meanwhile.
_SLEPT_S = 5.0


class CouldNotWakeError(OnecardError):
    """A start that a request or a command asked for failed before it was ready."""


class House(Protocol):
    """What a lane needs of the supervisor. `stop` is set at shutdown; running answers then get `drain_s` to finish."""

    command: tuple[str, ...]
    listening: socket.socket
    console: Console
    notifier: Notifier
    stop: asyncio.Event
    drain_s: float
    board: Board | None
    suspects: Suspects

    def speaks(self, lane: "Lane") -> bool:
        """Whether the terminal shows this lane's steps."""

    @property
    def leaving(self) -> bool:
        """Whether the servers are being stopped for a sleep or a change of model."""

    async def door(self) -> None:
        """A lane has begun or stopped listening: the waiting room opens when none listens, and closes when one does."""

    def take(self, given: Given) -> None:
        """Takes a connection that the server gives back."""

    def became_ready(self, lane: "Lane", seconds: float) -> None:
        """The lane's server is ready, after so many seconds."""

    def fell_idle(self) -> None:
        """No request has come for so long that the memory is to be given back."""

    async def rest(self, seconds: float) -> None:
        """Waits that long, or until shutdown."""


class Lane:
    """`listens` is true while the server accepts connections itself. `settled` is set once the first start has succeeded or
    failed; `gave_up` is why there will be no other. `replan` makes a plan for the GPU memory that is free now, None where
    nothing useful fits."""

    def __init__(self, stage: Stage, house: House, replan: Replan) -> None:
        self.stage = stage
        self.listens = False
        self.settled = asyncio.Event()
        self.gave_up: OnecardError | None = None
        self.life: Life | None = None
        self.room = Room(stage, house.console, replan, house.rest)
        self._house = house
        self._log = ServerLog(stage.launch.run_dir / "server.log")
        self._aftermath = Aftermath(stage, self._log, house.suspects)
        self._beat_at = 0.0
        self._drained = asyncio.Event()
        # Set once a server that was told to leave may be stopped.
        self._left = asyncio.Event()

    async def run(self) -> None:
        """Serves until shutdown, or until it has left. Raises OnecardError when another start would fail as well."""
        self.gave_up = self.stage.lost = None
        try:
            while not self._over:
                with ipc_dir(self.stage.launch.port, self.stage.launch.card) as ipc:
                    await self._serve_once(ipc)
                if self._over:
                    return
                if self.stage.launch.woken_at is not None:
                    raise CouldNotWakeError(self._aftermath.why)
                await self._pause(0.0 if await self._waited_for_memory() else self._aftermath.pause_s())
        except OnecardError as error:
            self.gave_up = error
            self.stage.lost = str(error)
            raise
        finally:
            self.settled.set()

    async def leave(self, drain_s: float | None) -> None:
        """Lets the server finish its running requests, within `drain_s` if that is given, and stops it; new requests wait."""
        if self.stage.state == "ready" and self.life:
            self.stage.state = "draining"
            await self._listens(False)
            self.life.channel.order_to_leave()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), drain_s)
        self.stage.state = "draining"
        await self._listens(False)
        self._left.set()

    def kill(self) -> None:
        """Kills the server at once: whoever stops it does not want to wait."""
        self._drained.set()
        if self.life:
            self.life.process.kill()

    def close(self) -> None:
        self._log.close()

    @property
    def _over(self) -> bool:
        return self._house.stop.is_set() or self._house.leaving

    # --- one life of the server process ---

    async def _serve_once(self, ipc: Path) -> None:
        """One life of the server process: starts it, watches it, and clears up after it."""
        stage, house = self.stage, self._house
        stage.begin()
        launch = stage.launch
        self._drained.clear()
        self._left.clear()
        self._aftermath.begin()
        self._show(house.console.step)
        await self._listens(False)
        has_nvcc = shutil.which("nvcc") is not None
        environment = child_environment(
            launch.write(ipc),
            ipc,
            has_nvcc=has_nvcc,
            compiles=launch.compiles,
            allocator_share=launch.allocator_share,
        )
        environment |= launch.card_environment
        ears = Ears(self._logged, self._told, house.take)
        life = self.life = await Life.begin(house.command, house.listening, environment, ears, house.board)
        life.channel.counted = self._counted
        ticking = asyncio.create_task(self._tick(life))
        stop, left = (asyncio.create_task(event.wait()) for event in (house.stop, self._left))
        await asyncio.wait({life.ended, stop, left}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            await self._end(life)
        elif left.done():
            await life.process.stop(STOP_GRACE_S)
        else:
            await self._begin_restart()
            await life.process.clear()
        # Every writer is gone: log and control pipe are read to the end, where a refusal may be.
        await life.finish()
        for task in (ticking, stop, left):
            task.cancel()
        await asyncio.gather(ticking, stop, left, return_exceptions=True)
        self.life = None

    async def _end(self, life: Life) -> None:
        """Lets running answers finish, then stops the server; the supervisor answers on the port until the end."""
        house = self._house
        if self.stage.state in ("ready", "draining") and house.drain_s > 0:
            life.process.drain()
            drained = asyncio.create_task(self._drained.wait())
            await asyncio.wait({drained, life.ended}, timeout=house.drain_s, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        self.stage.state = "draining"
        await self._listens(False)
        await life.process.stop(STOP_GRACE_S)

    def _logged(self, line: str) -> None:
        self._log.write(line)
        stage = self.stage
        if stage.state in ("starting", "restarting") and stage.progress.see_log_line(line):
            self._show(self._house.console.step)

    def _show(self, how: Callable[[Progress], None]) -> None:
        if self._house.speaks(self):
            how(self.stage.progress)

    async def _told(self, event: dict[str, Any]) -> None:
        self._beat_at = time.monotonic()
        match event["event"]:
            case "listening" if not self._house.leaving:
                self.stage.state = "warming"
                self.stage.progress.begin("warmup")
                self._show(self._house.console.step)
                await self._listens(True)
            case "ready" if not self._house.leaving:
                self._became_ready(event["measured"], event["wake_s"])
            case "idle":
                self._house.fell_idle()
            case "acquitted":
                self._house.suspects.acquit(bytes.fromhex(event["digest"]))
            case "drained":
                self._drained.set()
            case "hung":
                await self._give_up_on_it(event["reason"])
            case "failed":
                if self.stage.launch.restarts == 0:  # later it may be a passing trouble, and counts as a crash
                    self._aftermath.refusal = (event["reason"], GaveUpError.exit_code)
                if self.life:
                    await self.life.process.clear()
            case "refused":
                self._aftermath.refusal = (event["reason"], event["exit_code"])

    def _became_ready(self, measured: dict[str, Any], wake_s: float | None) -> None:
        stage = self.stage
        stage.state = "ready"
        stage.ready_at = time.monotonic()
        stage.measured = measured
        seconds = stage.progress.elapsed_s()
        keep_typical(stage.launch.run_dir, stage.launch.timings_key, stage.progress.durations_s())
        if self.life:
            self.life.process.remember_shared_memory()
        self._house.became_ready(self, seconds)
        if stage.launch.woken_at is not None:
            stage.launch = stage.launch.model_copy(update={"woken_at": None, "wake_s": wake_s})
        self.settled.set()

    def _counted(self) -> None:
        if self._house.board and self.life:
            channel = self.life.channel
            self._house.board.count(self.stage.launch.card, sent=channel.sent, taken=channel.received)

    async def _listens(self, listens: bool) -> None:
        self.listens = listens
        await self._house.door()

    async def _tick(self, life: Life) -> None:
        slept = slept_s()
        while True:
            await asyncio.sleep(1)
            stage = self.stage
            if stage.state not in ("ready", "draining"):
                self._house.notifier.extend_start(60)
                self._house.notifier.status(f"{stage.state}: {stage.progress.title}")
                self._show(self._house.console.tick)
                life.process.remember_shared_memory()
                continue
            silent_s = time.monotonic() - self._beat_at
            if silent_s > stage.launch.guard.hang_timeout_s:
                await self._give_up_on_it(f"the server process has said nothing for {silent_s:.0f} s")
            elif slept_s() - slept > _SLEPT_S and stage.launch.plan.gpu.name != "CPU":
                await self._give_up_on_it("the machine was suspended, and what was in the GPU's memory may be gone")

    async def _give_up_on_it(self, reason: str) -> None:
        """Kills a server that no longer serves; `_serve_once` sees it end and goes on."""
        if self._house.stop.is_set() or not self.life:
            return
        if self._house.leaving:  # it is being stopped anyway
            self._drained.set()
        elif self.stage.state == "ready":
            self._aftermath.hang = reason
            await self._begin_restart()
            await asyncio.sleep(_LAST_WORDS_S)
            self.life.process.kill()

    async def _begin_restart(self) -> None:
        """From here on, clients are told how long a whole start takes, not what was left of the last one."""
        stage = self.stage
        stage.state = "restarting"
        stage.progress = Progress(read_typical(stage.launch.run_dir, stage.launch.timings_key))
        self._aftermath.blame()
        await self._listens(False)

    # --- after a crash ---

    async def _waited_for_memory(self) -> bool:
        """Whether the server died because another program had taken the GPU's memory. That is no crash loop, and a restart is
        of no use before the memory is free again: waits for it, or until shutdown."""
        if self.stage.ready_at is None:
            return False
        free = await self.room.until_free(self.stage.launch, lambda: not self._over)
        if free:
            self.stage.launch = free.launch
        return free is not None and free.waited

    async def _pause(self, seconds: float) -> None:
        stage = self.stage
        stage.launch = stage.launch.model_copy(update={"restarts": stage.launch.restarts + 1})
        stage.progress = Progress(stage.launch.typical_s)
        again = f"is started again (restart {stage.launch.restarts}, in {seconds:.0f} s)"
        self._house.console.say(f"{self._aftermath.what} and {again}.")
        await self._house.rest(seconds)
