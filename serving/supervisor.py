"""The supervisor: opens the port once, starts the server process on it, answers while that cannot, restarts it when it
dies or hangs, and ends everything on SIGTERM or Ctrl-C.

States: starting → warming → ready → draining → stopped; a crash or a hang → restarting with growing pauses → ready or
given up.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import control, exporter, hardware
from serving.console import Console
from serving.errors import GaveUpError, OnecardError
from serving.guard.keys import KeyRing
from serving.launch import Launch, child_environment
from serving.notify import Notifier
from serving.plan import Plan
from serving.processes import SERVER, STOP_GRACE_S, ServerProcess
from serving.progress import TITLES, Progress, keep_typical, read_typical
from serving.restarts import Restarts, slept_s, taken_by_others
from serving.server_log import ServerLog
from serving.state_dir import ipc_dir, write_json
from serving.status import status_body
from serving.waiting import Listener, WaitingRoom

# Ctrl-C ends everything within ten seconds, so running answers get less than after SIGTERM.
_CTRL_C_DRAIN_S = 2.0
# What an engine's death leaves the server process for telling its clients.
_LAST_WORDS_S = 1.0
_LOOK_FOR_MEMORY_S = 5.0
# A machine that has slept for longer has switched its GPU off meanwhile.
_SLEPT_S = 5.0


class Supervisor:
    """One server on one socket. `run` returns when it was asked to stop, and raises OnecardError when it gave up.
    `command` starts the server process; the listening socket's number is its last word. `replan` makes a plan for the GPU
    memory that is free now, and None where nothing useful fits it. With `until_ready` the first one is all: it ends then."""

    def __init__(
        self,
        launch: Launch,
        listening: socket.socket,
        command: tuple[str, ...] = SERVER,
        replan: Callable[[Launch], Plan | None] = lambda _: None,
        *,
        until_ready: bool = False,
    ) -> None:
        self._launch = launch
        self._replan = replan
        self._until_ready = until_ready
        self._command = command
        self._listening = listening
        self._ring = KeyRing(launch.api_keys_file)
        self._what = f"{launch.plan.profile} {launch.model_folder}"
        self._console = Console()
        self._log = ServerLog(launch.run_dir / "server.log")
        self._state = "starting"
        self._stop = asyncio.Event()
        self._drained = asyncio.Event()
        self._drain_s = launch.guard.drain_s
        self._restarts = Restarts()
        self._measured: dict[str, Any] = {}
        self._refusal: tuple[str, int] | None = None
        self._hang: str | None = None
        self._taken: str | None = None
        self._ready_at: float | None = None
        self._beat_at = 0.0
        self._process: ServerProcess | None = None
        self._progress = Progress({})
        self._notifier = Notifier.from_environment()
        room = WaitingRoom(self._status, self._doing, self._ring, launch.guard)
        self._waiting = Listener(room, listening)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a second one kills at once."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._asked_to_stop, self._drain_s)
        loop.add_signal_handler(signal.SIGINT, self._asked_to_stop, min(self._drain_s, _CTRL_C_DRAIN_S))
        facts = {"pid": os.getpid(), "url": self._launch.url, "started_at": time.time(), "drain_s": self._drain_s}
        write_json(self._launch.run_dir / "server.json", facts)
        companion = await exporter.start_child(self._launch.port, self._launch.run_dir / "exporter.log")
        try:
            while not self._stop.is_set():
                with ipc_dir(self._launch.port) as ipc:
                    await self._serve_once(ipc)
                if not self._stop.is_set():
                    pause_s = 0.0 if await self._waited_for_memory() else self._after_crash()
                    await self._pause(pause_s)
        finally:
            self._state = "stopped"
            self._notifier.stopping()
            await self._waiting.stop()
            if companion and companion.returncode is None:
                companion.terminate()
                await companion.wait()
            self._listening.close()
            self._log.close()
            (self._launch.run_dir / "server.json").unlink(missing_ok=True)

    async def _serve_once(self, ipc: Path) -> None:
        """One life of the server process: start, watch, and clear away."""
        launch = self._launch = self._launch.model_copy(
            update={"typical_s": read_typical(self._launch.run_dir, self._what)}
        )
        self._progress = Progress(launch.typical_s)
        self._ready_at = self._refusal = self._hang = None
        self._drained.clear()
        self._log.begin()
        self._console.step(self._progress)
        self._waiting.start()
        read_end, write_end = os.pipe()
        environment = child_environment(launch.write(), ipc, has_nvcc=shutil.which("nvcc") is not None)
        environment[control.ENVIRONMENT_KEY] = str(write_end)
        process = self._process = await ServerProcess.start(
            self._command, self._listening.fileno(), write_end, environment
        )
        os.close(write_end)
        watchers = [
            asyncio.create_task(self._read_log(process)),
            asyncio.create_task(self._read_control(read_end)),
            asyncio.create_task(self._tick(process)),
        ]
        ended = asyncio.create_task(process.wait())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            await self._end(process, ended)
        else:
            self._begin_restart()
            await process.clear()
        # Every writer is gone: log and control pipe are read to their ends, where a refusal may stand.
        await asyncio.wait(watchers[:2], timeout=2)
        for task in (*watchers, ended, stop):
            task.cancel()
        await asyncio.gather(*watchers, ended, stop, return_exceptions=True)
        self._process = None

    async def _end(self, process: ServerProcess, ended: "asyncio.Task[int]") -> None:
        """Lets running answers finish, and then ends the server; the supervisor answers on the port to the last."""
        if self._state == "ready" and self._drain_s > 0:
            self._console.say(f"Stopping; running answers get {self._drain_s:.0f} s …")
            process.drain()
            drained = asyncio.create_task(self._drained.wait())
            await asyncio.wait({drained, ended}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        else:
            self._console.say("Stopping …")
        self._state = "draining"
        self._waiting.start()
        await process.stop(STOP_GRACE_S)

    async def _read_log(self, process: ServerProcess) -> None:
        if process.log is None:
            return
        while not process.log.at_eof():
            try:
                text = (await process.log.readline()).decode("utf-8", "replace")
            except ValueError:  # a line longer than the reader's limit is left out; reading must go on
                continue
            if not text:
                return
            self._log.write(text)
            if self._state in ("starting", "restarting") and self._progress.see_log_line(text):
                self._console.step(self._progress)

    async def _read_control(self, descriptor: int) -> None:
        """What the server process tells (control.py)."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(descriptor, "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        with contextlib.closing(transport):
            while line := await reader.readline():
                await self._told(json.loads(line))

    async def _told(self, event: dict[str, Any]) -> None:
        self._beat_at = time.monotonic()
        match event["event"]:
            case "listening":
                self._state = "warming"
                self._progress.begin("warmup")
                self._console.step(self._progress)
                await self._waiting.stop()
            case "ready":
                self._state = "ready"
                self._ready_at = time.monotonic()
                self._measured = event["measured"]
                seconds = self._progress.elapsed_s()
                keep_typical(self._launch.run_dir, self._what, self._progress.durations_s())
                if self._process:
                    self._process.remember_shared_memory()
                if self._until_ready:
                    self._console.say(f"Ready after {seconds:.0f} s; the caches are built.")
                    self._asked_to_stop(0.0)
                    return
                self._console.ready(self._launch, seconds, keyed=bool(self._ring))
                self._notifier.ready(f"serving {self._launch.model_names[0]} on {self._launch.url}")
            case "drained":
                self._drained.set()
            case "hung":
                await self._give_up_on_it(event["reason"])
            case "failed":
                if self._launch.restarts == 0:  # later, it may have been a passing trouble: that is a crash
                    self._refusal = (event["reason"], GaveUpError.exit_code)
                if self._process:
                    await self._process.clear()
            case "refused":
                self._refusal = (event["reason"], event["exit_code"])

    async def _tick(self, process: ServerProcess) -> None:
        slept = slept_s()
        while True:
            await asyncio.sleep(1)
            self._notifier.alive()  # a hang of the server is this loop's to see; its own is the service manager's
            if self._state != "ready":
                self._notifier.extend_start(60)
                self._notifier.status(f"{self._state}: {self._progress.title}")
                self._console.tick(self._progress)
                process.remember_shared_memory()
                continue
            silent_s = time.monotonic() - self._beat_at
            if silent_s > self._launch.guard.hang_timeout_s:
                await self._give_up_on_it(f"the server process has said nothing for {silent_s:.0f} s")
            elif slept_s() - slept > _SLEPT_S and self._launch.plan.gpu.name != "CPU":
                await self._give_up_on_it("the machine was suspended, and what was in the GPU's memory may be gone")

    async def _give_up_on_it(self, reason: str) -> None:
        """Kills a server that serves no more; `_serve_once` sees its end and goes on."""
        if self._state == "ready" and self._process and not self._stop.is_set():
            self._hang = reason
            self._begin_restart()
            await asyncio.sleep(_LAST_WORDS_S)
            self._process.kill()

    def _begin_restart(self) -> None:
        """From here on who asks is told what a start takes, and not that the last one is all but done."""
        self._state = "restarting"
        self._progress = Progress(read_typical(self._launch.run_dir, self._what))
        self._waiting.start()

    def _after_crash(self) -> float:
        """The pause before the next start. Raises OnecardError when another would end as this one did."""
        if self._refusal:
            reason, code = self._refusal
            error = OnecardError(reason)
            error.exit_code = code
            raise error
        why = self._hang or self._log.explain()
        if self._ready_at is None and self._launch.restarts == 0:
            raise GaveUpError(f"The server ended before it was ready: {why}")
        ready_for_s = None if self._ready_at is None else time.monotonic() - self._ready_at
        pause_s = self._restarts.crashed(ready_for_s)
        if pause_s is None:
            raise GaveUpError(f"The server {self._restarts.too_many} and is not started again: {why}")
        return pause_s

    async def _waited_for_memory(self) -> bool:
        """Whether another program had taken the GPU's memory, of which a server dies: no crash loop, and no use starting
        another before it has been given back. Asks for it until then, or until the end."""
        looks = 0
        while self._ready_at and not self._stop.is_set():
            self._taken = taken_by_others(self._launch.plan, await asyncio.to_thread(hardware.detect))
            if self._taken is None:
                if self._launch.plan.gpu.taken_mib:  # made smaller before; they may have given it back
                    await self._planned_again()
                break
            looks += 1
            if looks > 1 and await self._planned_again():
                break
            self._console.say(f"Waiting: {self._taken}.")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK_FOR_MEMORY_S)
        return looks > 1  # at the first look what the dead server held may not have been counted as free yet

    async def _planned_again(self) -> bool:
        """Whether something useful fits beside what other programs hold by now; the next start then serves that."""
        plan = await asyncio.to_thread(self._replan, self._launch)
        if plan is None:
            return False
        self._launch = self._launch.model_copy(update={"plan": plan})
        self._taken = None
        given_up = "; ".join(plan.given_up) or "nothing"
        self._console.say(f"Planned again, with {plan.capacity.kv_tokens:,} tokens of KV cache. Given up: {given_up}.")
        return True

    async def _pause(self, seconds: float) -> None:
        self._launch = self._launch.model_copy(update={"restarts": self._launch.restarts + 1})
        self._progress = Progress(self._launch.typical_s)
        what = f"The server was ended, since {self._hang}," if self._hang else "The server died"
        self._console.say(f"{what} and is started again (restart {self._launch.restarts}, in {seconds:.0f} s).")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _asked_to_stop(self, drain_s: float) -> None:
        if self._stop.is_set():
            self._drained.set()
            if self._process:
                self._process.kill()
        self._drain_s = drain_s
        self._stop.set()

    def _doing(self) -> str:
        if self._taken:
            return self._taken
        return "the server is ended" if self._state in ("draining", "stopped") else self._progress.title

    def _status(self) -> dict[str, Any]:
        return status_body(
            self._launch,
            state=self._state,
            step=self._progress.step,
            seconds_left=self._progress.seconds_left(),
            measured=self._measured,
        ) | {"step_title": self._taken or TITLES[self._progress.step]}
