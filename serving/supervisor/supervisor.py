"""The supervisor: owns the port, runs a server process on it for each card, answers itself while none of them does, puts them
to sleep and wakes them, and shuts everything down on SIGTERM or Ctrl-C.

States: starting → warming → ready → draining → stopped; draining → asleep → starting, when a request comes for this model or
another; after a crash or a hang, restarting with growing pauses → ready or given up (lane.py).
"""

import asyncio
import contextlib
import signal
import socket
import time
from pathlib import Path
from typing import Literal

from serving.errors import GaveUpError, OnecardError
from serving.exporter import exporter
from serving.guard.keys import KeyRing
from serving.guard.state import capacity_of
from serving.guard.suspects import Suspects
from serving.ipc.board import Board
from serving.ipc.handover import Channel, Given
from serving.ipc.launch import Launch
from serving.machine.notify import Notifier
from serving.machine.processes import SERVER, longest_end_s
from serving.metrics.status import status_metrics
from serving.supervisor.console import Console
from serving.supervisor.hold import Hold
from serving.supervisor.holding import Holding
from serving.supervisor.lane import CouldNotWakeError, Lane
from serving.supervisor.room import Replan
from serving.supervisor.situation import Situation, Stage
from serving.supervisor.sleeper import Sleeper
from serving.supervisor.swap import Choice, next_model
from serving.supervisor.together import Together
from serving.supervisor.waiting import Listener, WaitingRoom

# Ctrl-C shuts down within ten seconds, so running answers get less time than after SIGTERM.
_CTRL_C_DRAIN_S = 2.0


class Supervisor:
    """The servers on one socket. `run` returns after it was asked to stop, and raises OnecardError when it gives up.

    `command` starts a server process; the listening socket's descriptor is appended to it. `replan` makes a plan for the GPU
    memory that is free now, None where nothing useful fits. `others` are the models that requests may name instead of this
    one. With `until_ready` it stops as soon as the server is ready."""

    def __init__(
        self,
        launch: Launch,
        listening: socket.socket,
        command: tuple[str, ...] = SERVER,
        replan: Replan = lambda *_: None,
        others: tuple[Launch, ...] = (),
        *,
        until_ready: bool = False,
    ) -> None:
        self.command = command
        self.listening = listening
        self.console = Console()
        self.notifier = Notifier.from_environment()
        self.stop = asyncio.Event()
        self.drain_s = launch.guard.drain_s
        self._until_ready = until_ready
        self._choice = Choice((launch, *others))
        self._hold = Hold(capacity_of(launch.plan).queue)
        self._ring = KeyRing(launch.api_keys_file)
        self.board = Board.for_cards(len(launch.cards)) if len(launch.cards) > 1 else None
        self.suspects = Suspects(launch.home)
        first = self._choice.launches[self._choice.current]
        stages = [Stage(first.of_card(card)) for card in range(len(launch.cards))]
        self._situation = Situation(stages, self._hold, self.board)
        self._lanes = [Lane(stage, self, replan) for stage in stages]
        self._sleeper = Sleeper(self._choice, self._hold, self._lanes[0].room, self.stop)
        self._at_the_door = asyncio.Lock()  # opening takes a moment, and another lane may begin to listen meanwhile
        self._leave_task: asyncio.Task[None] | None = None
        holding = Holding(self._hold, self._choice, launch.guard, self._situation, self._channels_to)
        room = WaitingRoom(
            self._situation.status,
            lambda: self._situation.doing,
            self._ring,
            launch.guard,
            holds=lambda again: self._situation.holds(again=again) and not self.stop.is_set(),
            holding=holding,
            metrics=Together(status_metrics(self._situation.status), self._channels) if self.board else None,
            models=self._situation.models,
        )
        self._waiting = Listener(room, listening)

    async def run(self) -> None:
        """Serves until SIGTERM, SIGINT or SIGHUP; a second signal kills at once. SIGUSR1 is `onecard sleep`, SIGUSR2 `onecard
        wake`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked_to_stop, self.drain_s)
        loop.add_signal_handler(signal.SIGINT, self._asked_to_stop, min(self.drain_s, _CTRL_C_DRAIN_S))
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # its terminal is closed; under nohup it outlives that
            loop.add_signal_handler(signal.SIGHUP, self._asked_to_stop, min(self.drain_s, _CTRL_C_DRAIN_S))
        loop.add_signal_handler(signal.SIGUSR1, self._leave, "sleep", self.drain_s)
        loop.add_signal_handler(signal.SIGUSR2, self._asked_to_wake)
        self.suspects.forget()
        self._situation.note()
        beside = [asyncio.create_task(each) for each in (self._alive(), self._tend())]
        home, port = self._situation.launch.home, self._situation.launch.port
        companion = await exporter.start_child(port, exporter_log := home / "exporter.log")
        if companion:
            beside.append(asyncio.create_task(self._miss(companion, exporter_log)))
        try:
            while not self.stop.is_set():
                if self._situation.leaving:
                    await self._sleep()
                else:
                    await self._serve()
        finally:
            self._situation.all_are("stopped")
            self._hold.refuse(None, "the server is ended")
            await self._waiting.clear()
            for task in beside:
                task.cancel()
            if companion:
                await exporter.end_child(companion)
            self.listening.close()
            for lane in self._lanes:
                lane.close()
            (home / "server.json").unlink(missing_ok=True)

    async def _serve(self) -> None:
        """Runs every card's server until shutdown, or until all have left. Raises OnecardError when all are given up."""
        first, *others = self._lanes
        ends = await asyncio.gather(self._run(first, None), *(self._run(lane, first) for lane in others))
        errors = [error for error in ends if error]
        if self.stop.is_set() or self._situation.leaving or len(errors) < len(self._lanes):
            return
        if not isinstance(errors[0], CouldNotWakeError):
            raise errors[0]
        self._could_not_wake(errors[0])

    async def _run(self, lane: Lane, before: Lane | None) -> OnecardError | None:
        """Runs one card's server. Returns why it was given up, None where it left. The first server's start fills the compile
        caches, so the others wait for it; what it is refused for, they would be refused for too."""
        if before:
            await _either(before.settled, self.stop)
            if before.gave_up and before.gave_up.exit_code != GaveUpError.exit_code:
                return before.gave_up
        try:
            await lane.run()
        except OnecardError as error:
            if len(self._lanes) > 1:
                self.console.say(f"The server {lane.stage.place} is given up: {error}")
            return error
        return None

    # --- what the lanes need ---

    @property
    def leaving(self) -> bool:
        return self._situation.leaving is not None

    async def door(self) -> None:
        for lane in self._lanes:
            if self.board and not (lane.listens and lane.stage.state == "ready"):
                self.board.close(lane.stage.launch.card)
        async with self._at_the_door:
            if any(lane.listens for lane in self._lanes):
                self._waiting.close()
            else:
                await self._waiting.open()
        self._situation.note()

    def speaks(self, lane: Lane) -> bool:
        return lane.stage is self._situation.lead

    def take(self, given: Given) -> None:
        self._waiting.take(given)

    def became_ready(self, lane: Lane, seconds: float) -> None:
        if self._until_ready:
            self.console.say(f"Ready after {seconds:.0f} s; the caches are built.")
            self._asked_to_stop(0.0)
            return
        launch = lane.stage.launch
        if self.board:
            self.board.open(launch.card)
        if (serving := len(self._channels())) > 1:
            self.console.say(
                f"The server {lane.stage.place} is ready after {seconds:.0f} s: {serving} of {len(self._lanes)}."
            )
        elif launch.woken_at is None:
            self.console.ready(launch, seconds, keyed=bool(self._ring))
        else:
            self.console.say(f"Awake after {seconds:.0f} s, with {self._choice.current}.")
        self.notifier.ready(f"serving {self._choice.current} on {launch.url}")
        self._situation.note()
        if lane.life:
            self._hold.release(self._choice.current, lane.life.channel)
            self._waiting.give(lane.life.channel)

    def fell_idle(self) -> None:
        self._leave("sleep", None)

    async def rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _tend(self) -> None:
        """Passes idle connections on to a server that is ready, and changes the model when it is time to."""
        while True:
            await asyncio.sleep(1)
            lead = self._situation.lead
            if lead.state == "ready" and lead.ready_at and (channels := self._channels_to(self._choice.current)):
                self._waiting.give(channels[0])
                ready_s = time.monotonic() - lead.ready_at
                if next_model(self._hold.waiting, self._choice.current, ready_s, lead.launch.guard.min_stay_s):
                    self._leave("swap", None)

    # --- asleep ---

    def _leave(self, why: Literal["sleep", "swap"], drain_s: float | None) -> None:
        """Lets the servers finish their running requests, within `drain_s` if given, and stops them; new requests wait."""
        if self._situation.state == "asleep" or self.stop.is_set():
            return
        self._situation.leaving = "sleep" if self._situation.leaving == "sleep" else why
        if self._leave_task is None or self._leave_task.done():
            self._leave_task = asyncio.create_task(self._all_leave(drain_s))

    async def _all_leave(self, drain_s: float | None) -> None:
        await asyncio.gather(*(lane.leave(drain_s) for lane in self._lanes))

    async def _sleep(self) -> None:
        """Sleeps until somebody asks for a model and its memory is free: that model is started next."""
        swapping = self._situation.leaving == "swap"
        self._situation.leaving = None
        self._situation.all_are("asleep")
        self._situation.asleep_since = time.time()
        await self._waiting.open()
        if not swapping:
            self.console.say("Asleep: the memory is given back, and the next request takes it again.")
            self.notifier.status("asleep")
            self._situation.note()
        launch = await self._sleeper.until_wanted(self._situation, swapping=swapping)
        for stage in self._situation.stages:
            own = stage.launch
            stage.launch = launch.of_card(own.card).model_copy(update={"restarts": own.restarts})
        if self.stop.is_set():
            return
        self._situation.asleep_since = None
        for stage in self._situation.stages:
            stage.measured, stage.state = {}, "starting"
        self.console.say(f"Waking up, with {self._choice.current} …")

    def _could_not_wake(self, error: OnecardError) -> None:
        """A start that requests were waiting for has failed: they are told, and the next request tries again."""
        self.console.say(f"{self._choice.current} could not be loaded: {error}")
        self._hold.refuse(self._choice.current, "the model could not be loaded; the server's log says why")
        for stage in self._situation.stages:
            stage.launch = stage.launch.model_copy(update={"woken_at": None})
            stage.taken = "the model could not be loaded the last time; the server's log says why"
        self._situation.leaving = "sleep"

    def _channels_to(self, model: str) -> list[Channel]:
        """The channels to that model's ready servers, the one with the fewest requests first."""
        channels = self._channels() if model == self._choice.current else {}
        return [channels[card] for card in (sorted(channels, key=self.board.load) if self.board else channels)]

    def _channels(self) -> dict[int, Channel]:
        """The channels to the ready servers, by card."""
        ready = [lane for lane in self._lanes if lane.stage.state == "ready"]
        return {lane.stage.launch.card: lane.life.channel for lane in ready if lane.life}

    # --- what others ask ---

    def _asked_to_stop(self, drain_s: float) -> None:
        if self.stop.is_set():
            for lane in self._lanes:
                lane.kill()
        elif drain_s > 0 and self._situation.state in ("ready", "draining"):
            self.console.say(f"Stopping; running answers get {drain_s:.0f} s …")
        else:
            self.console.say("Stopping …")
        self.drain_s = drain_s
        self.notifier.stopping(longest_end_s(drain_s))
        self.stop.set()

    def _asked_to_wake(self) -> None:
        if self._situation.state == "asleep" or self._situation.leaving:
            self._sleeper.asked.set()

    async def _alive(self) -> None:
        """Pings the service manager, which watches this process as this process watches the servers."""
        while True:
            self.notifier.alive()
            await asyncio.sleep(1)

    async def _miss(self, companion: asyncio.subprocess.Process, log: Path) -> None:
        why = await exporter.end_of_child(companion, log)
        self.console.say(f"The exporter has ended, and Prometheus is told nothing of the card: {why}")


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
