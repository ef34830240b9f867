"""The supervisor: opens the port once, starts the server process on it, answers while that cannot, restarts it when it
dies, and ends everything on SIGTERM or Ctrl-C.

States: starting → warming → ready → draining → stopped; a crash → restarting with growing pauses → ready or given up.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

from serving import control
from serving.console import Console
from serving.errors import GaveUpError, OnecardError
from serving.guard.keys import read_keys
from serving.launch import Launch, child_environment
from serving.processes import STOP_GRACE_S, ServerProcess
from serving.progress import TITLES, Progress, keep_typical, read_typical
from serving.server_log import ServerLog
from serving.state_dir import ipc_dir, write_json
from serving.status import status_body
from serving.waiting import Listener, WaitingRoom

_PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0)
# A server that was ready for this long has not crashed at once: the pauses begin anew.
_STABLE_S = 120.0


class Supervisor:
    """One server on one socket. `run` returns when it was asked to stop, and raises OnecardError when it gave up."""

    def __init__(self, launch: Launch, listening: socket.socket) -> None:
        self._launch = launch
        self._listening = listening
        self._keys = read_keys(launch.api_keys_file)
        self._what = f"{launch.plan.profile} {launch.model_folder}"
        self._console = Console()
        self._log = ServerLog(launch.run_dir / "server.log")
        self._state = "starting"
        self._stop = asyncio.Event()
        self._measured: dict[str, Any] = {}
        self._refusal: tuple[str, int] | None = None
        self._ready_at: float | None = None
        self._process: ServerProcess | None = None
        self._progress = Progress({})
        room = WaitingRoom(self._status, lambda: self._progress.title, self._keys)
        self._waiting = Listener(room, listening)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a second one kills at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        facts = {"pid": os.getpid(), "url": self._launch.url, "started_at": time.time()}
        write_json(self._launch.run_dir / "server.json", facts)
        crashes = 0
        try:
            while not self._stop.is_set():
                with ipc_dir(self._launch.port) as ipc:
                    await self._serve_once(ipc)
                if self._stop.is_set():
                    break
                stable = self._ready_at is not None and time.monotonic() - self._ready_at > _STABLE_S
                crashes = 1 if stable else crashes + 1
                self._give_up_if(crashes)
                await self._pause(_PAUSES_S[crashes - 1])
        finally:
            await self._waiting.stop()
            self._listening.close()
            self._log.close()
            (self._launch.run_dir / "server.json").unlink(missing_ok=True)

    async def _serve_once(self, ipc: Path) -> None:
        """One life of the server process: start, watch, and clear away."""
        launch = self._launch = self._launch.model_copy(
            update={"typical_s": read_typical(self._launch.run_dir, self._what)}
        )
        self._progress = Progress(launch.typical_s)
        self._ready_at = self._refusal = None
        self._log.begin()
        self._console.step(self._progress)
        self._waiting.start()
        read_end, write_end = os.pipe()
        environment = child_environment(launch.write(), ipc, has_nvcc=shutil.which("nvcc") is not None)
        environment[control.ENVIRONMENT_KEY] = str(write_end)
        process = self._process = await ServerProcess.start(self._listening.fileno(), write_end, environment)
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
            self._state = "draining"
            self._console.say("Stopping …")
            await process.stop(STOP_GRACE_S)
        else:
            self._state = "restarting"
            self._waiting.start()
            await process.clear()
        # Every writer is gone: log and control pipe are read to their ends, where a refusal may stand.
        await asyncio.wait(watchers[:2], timeout=2)
        for task in (*watchers, ended, stop):
            task.cancel()
        await asyncio.gather(*watchers, ended, stop, return_exceptions=True)
        self._process = None

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
                self._console.ready(self._launch, seconds, keyed=bool(self._keys))
            case "failed":
                if self._launch.restarts == 0:  # later, it may have been a passing trouble: that is a crash
                    self._refusal = (event["reason"], GaveUpError.exit_code)
                if self._process:
                    await self._process.clear()
            case "refused":
                self._refusal = (event["reason"], event["exit_code"])

    async def _tick(self, process: ServerProcess) -> None:
        while True:
            await asyncio.sleep(1)
            if self._state != "ready":
                self._console.tick(self._progress)
                process.remember_shared_memory()

    def _give_up_if(self, crashes: int) -> None:
        """Raises when another start would end as this one did."""
        if self._refusal:
            reason, code = self._refusal
            error = OnecardError(reason)
            error.exit_code = code
            raise error
        why = self._log.explain()
        if self._ready_at is None and self._launch.restarts == 0:
            raise GaveUpError(f"The server ended before it was ready: {why}")
        if crashes > len(_PAUSES_S) - 1:
            raise GaveUpError(f"The server crashed {crashes} times in a row and is not started again: {why}")

    async def _pause(self, seconds: float) -> None:
        self._launch = self._launch.model_copy(update={"restarts": self._launch.restarts + 1})
        self._progress = Progress(self._launch.typical_s)
        self._console.say(
            f"The server died and is started again (restart {self._launch.restarts}, in {seconds:.0f} s)."
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set() and self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._stop.set()

    def _status(self) -> dict[str, Any]:
        return status_body(
            self._launch,
            state=self._state,
            step=self._progress.step,
            seconds_left=self._progress.seconds_left(),
            measured=self._measured,
        ) | {"step_title": TITLES[self._progress.step]}
