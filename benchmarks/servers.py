"""Starts a contender's server, waits until it is ready, and ends it with everything that it started."""

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks import contenders, ending
from benchmarks.contenders import Contender, Setting
from benchmarks.cores import held_to
from benchmarks.worker import last_error
from serving.machine.port import free_port

_START_LIMIT_S = 600.0
_LOADED = re.compile(r"Model loading took ([\d.]+) GiB memory and ([\d.]+) seconds")


class DiedError(RuntimeError):
    """The server did not become ready, or has ended; with what its log says."""


class StoppedError(RuntimeError):
    """The run is being ended."""


@dataclass
class Server:
    """A started contender. `ready_s` is 0 until it is ready; `stopping` is set when the run is being ended."""

    contender: Contender
    command: list[str]
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    began: float
    stopping: threading.Event
    ready_s: float = 0.0
    model: str = ""

    def wait_until_ready(self) -> None:
        """Returns when it serves. Raises DiedError when it has ended or takes longer than ten minutes; StoppedError."""
        # onecard's port is open long before it is ready; vLLM opens its own when its engine is.
        probe = f"{self.url}/{'ready' if self.contender.kind == 'onecard' else 'health'}"
        while time.monotonic() - self.began < _START_LIMIT_S:
            self.check_alive()
            with contextlib.suppress(httpx.HTTPError):  # not listening yet
                if httpx.get(probe, timeout=5, trust_env=False).status_code == 200:
                    self.ready_s = round(time.monotonic() - self.began, 1)
                    self.model = first_model(f"{self.url}/v1")
                    return
            time.sleep(0.1)
        raise DiedError(f"not ready after {_START_LIMIT_S:.0f} s; {last_error(self.log)}")

    def check_alive(self) -> None:
        """Raises DiedError when it has ended, and StoppedError when nobody waits for it any more."""
        if self.stopping.is_set():
            raise StoppedError
        if self.process.poll() is not None:
            raise DiedError(f"ended with exit code {self.process.returncode}; {last_error(self.log)}")

    def loaded(self) -> tuple[float | None, float | None]:
        """GiB of weights and the seconds of loading them, as vLLM logs them for a GPU."""
        found = None
        for log in (
            self.log,
            *self.log.parent.glob("state/*/server.log"),
        ):  # onecard keeps vLLM's words in a file of its own
            found = found or _LOADED.search(log.read_text(encoding="utf-8", errors="replace"))
        return (float(found[1]), float(found[2])) if found else (None, None)

    def stop(self) -> None:
        """Ends it with everything that it started."""
        ending.end(self.process)


def start(
    contender: Contender,
    setting: Setting,
    folder: Path,
    stopping: threading.Event,
    *,
    gpu: str | None = None,
    cores: Sequence[int] = (),
    caches: Path | None = None,
) -> Server:
    """Starts it on a free port; what it says goes to `folder`. Does not wait."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    launch = contenders.launch_of(contender, setting, port, folder)
    launch_file = launch.write()
    command = [*held_to(cores), *contenders.command(contender, setting, port, launch_file)]
    environment = contenders.environment(
        contender, gpu=gpu, launch_file=launch_file, state_dir=folder / "state", caches=caches
    )
    log = folder / "server.log"
    began = time.monotonic()
    with log.open("wb") as stream:
        stream.write((" ".join(command) + "\n").encode())
        stream.flush()
        process = subprocess.Popen(
            [*ending.TIED, *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    return Server(contender, command, f"http://127.0.0.1:{port}", process, log, began, stopping)


def first_model(url: str) -> str:
    """The first model that a server offers. `url` ends in /v1. Raises DiedError."""
    try:
        reply = httpx.get(f"{url}/models", timeout=10, trust_env=False)
        return str(reply.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise DiedError(f"{url}/models names no model ({error}); name one with --model") from error
