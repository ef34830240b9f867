"""The supervisor: opens the port once, has a server process on it for each card, answers while none of them does, puts them
to sleep and wakes them, and ends everything on SIGTERM or Ctrl-C.

States: starting → warming → ready → draining → stopped; draining → asleep → starting again when somebody asks, for the same
model or for another; a crash or a hang → restarting with growing pauses → ready or given up (lane.py).
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
from serving.machine.processes import SERVER, STOP_GRACE_S
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

# Ctrl-C ends everything within ten seconds, so running answers get less than after SIGTERM.
_CTRL_C_DRAIN_S = 2.0
# Killing and clearing away, after the drain and the grace.
_CLEARING_S = 14.0


class Supervisor:
    """The servers on one socket. `run` returns when it was asked to stop, and raises OnecardError when it gave up.

    `command` starts a server process; the listening socket's number is its last word. `replan` makes a plan for the GPU
    memory that is free now, and None where nothing useful fits it. `others` are the models that a request may have in this
    one's place, by their names. With `until_ready` the first start is all: it ends then."""

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
        self._at = Situation(stages, self._hold, self.board)
        self._lanes = [Lane(stage, self, replan) for stage in stages]
        self._sleeper = Sleeper(self._choice, self._hold, self._lanes[0].room, self.stop)
        self._at_the_door = asyncio.Lock()  # opening takes a moment, in which another lane may come to listen
        self._leave_task: asyncio.Task[None] | None = None
        holding = Holding(self._hold, self._choice, launch.guard, self._at, self._ways_to)
        room = WaitingRoom(
            self._at.status,
            lambda: self._at.doing,
            self._ring,
            launch.guard,
            holds=lambda again: self._at.holds(again=again) and not self.stop.is_set(),
            holding=holding,
            metrics=Together(status_metrics(self._at.status), self._ways) if self.board else None,
            models=self._at.models,
        )
        self._waiting = Listener(room, listening)

    async def run(self) -> None:
        """Serves until SIGTERM, SIGINT or SIGHUP; a second one kills at once. SIGUSR1 is `onecard sleep`, SIGUSR2 `wake`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked_to_stop, self.drain_s)
        loop.add_signal_handler(signal.SIGINT, self._asked_to_stop, min(self.drain_s, _CTRL_C_DRAIN_S))
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # its terminal is closed; under nohup it outlives that
            loop.add_signal_handler(signal.SIGHUP, self._asked_to_stop, min(self.drain_s, _CTRL_C_DRAIN_S))
        loop.add_signal_handler(signal.SIGUSR1, self._leave, "sleep", self.drain_s)
        loop.add_signal_handler(signal.SIGUSR2, self._asked_to_wake)
        self.suspects.forget()
        self._at.note()
        beside = [asyncio.create_task(each) for each in (self._alive(), self._tend())]
        home, port = self._at.launch.home, self._at.launch.port
        companion = await exporter.start_child(port, exporter_log := home / "exporter.log")
        if companion:
            beside.append(asyncio.create_task(self._miss(companion, exporter_log)))
        try:
            while not self.stop.is_set():
                if self._at.leaving:
                    await self._sleep()
                else:
                    await self._serve()
        finally:
            self._at.all_are("stopped")
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
        """Every card's server, until the end or until all have left. Raises OnecardError when none is left that could serve."""
        first, *others = self._lanes
        ends = await asyncio.gather(self._run(first, None), *(self._run(lane, first) for lane in others))
        errors = [error for error in ends if error]
        if self.stop.is_set() or self._at.leaving or len(errors) < len(self._lanes):
            return
        if not isinstance(errors[0], CouldNotWakeError):
            raise errors[0]
        self._could_not_wake(errors[0])

    async def _run(self, lane: Lane, before: Lane | None) -> OnecardError | None:
        """One card's server; why it is not started any more, None where it has left. The first one's start compiles what
        the others find: they wait for it. What is refused there would be refused to them too."""
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
        return self._at.leaving is not None

    async def door(self) -> None:
        for lane in self._lanes:
            if self.board and not (lane.listens and lane.stage.state == "ready"):
                self.board.close(lane.stage.launch.card)
        async with self._at_the_door:
            if any(lane.listens for lane in self._lanes):
                self._waiting.close()
            else:
                await self._waiting.open()
        self._at.note()

    def speaks(self, lane: Lane) -> bool:
        return lane.stage is self._at.lead

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
        if (serving := len(self._ways())) > 1:
            self.console.say(
                f"The server {lane.stage.place} is ready after {seconds:.0f} s: {serving} of {len(self._lanes)}."
            )
        elif launch.woken_at is None:
            self.console.ready(launch, seconds, keyed=bool(self._ring))
        else:
            self.console.say(f"Awake after {seconds:.0f} s, with {self._choice.current}.")
        self.notifier.ready(f"serving {self._choice.current} on {launch.url}")
        self._at.note()
        if lane.life:
            self._hold.release(self._choice.current, lane.life.channel)
            self._waiting.give(lane.life.channel)

    def fell_idle(self) -> None:
        self._leave("sleep", None)

    async def rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)

    async def _tend(self) -> None:
        """Hands on what connections have come to rest here, and changes the model when it is time to."""
        while True:
            await asyncio.sleep(1)
            lead = self._at.lead
            if lead.state == "ready" and lead.ready_at and (ways := self._ways_to(self._choice.current)):
                self._waiting.give(ways[0])
                ready_s = time.monotonic() - lead.ready_at
                if next_model(self._hold.waiting, self._choice.current, ready_s, lead.launch.guard.min_stay_s):
                    self._leave("swap", None)

    # --- asleep ---

    def _leave(self, why: Literal["sleep", "swap"], drain_s: float | None) -> None:
        """Has the servers finish what runs, within `drain_s` where that is bounded, and end; what comes meanwhile waits."""
        if self._at.state == "asleep" or self.stop.is_set():
            return
        self._at.leaving = "sleep" if self._at.leaving == "sleep" else why
        if self._leave_task is None or self._leave_task.done():
            self._leave_task = asyncio.create_task(self._all_leave(drain_s))

    async def _all_leave(self, drain_s: float | None) -> None:
        await asyncio.gather(*(lane.leave(drain_s) for lane in self._lanes))

    async def _sleep(self) -> None:
        """Until somebody asks for a model whose memory is to be had: then that is what is started next."""
        swapping = self._at.leaving == "swap"
        self._at.leaving = None
        self._at.all_are("asleep")
        self._at.asleep_since = time.time()
        await self._waiting.open()
        if not swapping:
            self.console.say("Asleep: the memory is given back, and the next request takes it again.")
            self.notifier.status("asleep")
            self._at.note()
        launch = await self._sleeper.until_wanted(self._at, swapping=swapping)
        for stage in self._at.stages:
            own = stage.launch
            stage.launch = launch.of_card(own.card).model_copy(update={"restarts": own.restarts})
        if self.stop.is_set():
            return
        self._at.asleep_since = None
        for stage in self._at.stages:
            stage.measured, stage.state = {}, "starting"
        self.console.say(f"Waking up, with {self._choice.current} …")

    def _could_not_wake(self, error: OnecardError) -> None:
        """A start that somebody asked for failed: they are told, and the next who asks has another try."""
        self.console.say(f"{self._choice.current} could not be loaded: {error}")
        self._hold.refuse(self._choice.current, "the model could not be loaded; the server's log says why")
        for stage in self._at.stages:
            stage.launch = stage.launch.model_copy(update={"woken_at": None})
            stage.taken = "the model could not be loaded the last time; the server's log says why"
        self._at.leaving = "sleep"

    def _ways_to(self, model: str) -> list[Channel]:
        """The ways to that model's servers that are ready, the one with the fewest requests first."""
        ways = self._ways() if model == self._choice.current else {}
        return [ways[card] for card in (sorted(ways, key=self.board.load) if self.board else ways)]

    def _ways(self) -> dict[int, Channel]:
        """The ways to the servers that are ready, by card."""
        ready = [lane for lane in self._lanes if lane.stage.state == "ready"]
        return {lane.stage.launch.card: lane.life.channel for lane in ready if lane.life}

    # --- what others ask ---

    def _asked_to_stop(self, drain_s: float) -> None:
        if self.stop.is_set():
            for lane in self._lanes:
                lane.kill()
        elif drain_s > 0 and self._at.state in ("ready", "draining"):
            self.console.say(f"Stopping; running answers get {drain_s:.0f} s …")
        else:
            self.console.say("Stopping …")
        self.drain_s = drain_s
        self.notifier.stopping(drain_s + STOP_GRACE_S + _CLEARING_S)
        self.stop.set()

    def _asked_to_wake(self) -> None:
        if self._at.state == "asleep" or self._at.leaving:
            self._sleeper.asked.set()

    async def _alive(self) -> None:
        """A hang of the server is this process's to see; its own is the service manager's."""
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
