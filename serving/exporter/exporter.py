"""`onecard exporter`: GPU, supervisor, plan and machine as metrics, in a process that lives when the engine does not.

It needs neither vLLM nor torch. Everything is read beside the scrapes, so that one takes milliseconds whatever hangs.
"""

import asyncio
import contextlib
import errno
import os
import signal
import sys
import threading
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from serving.errors import PortInUseError, UsageError
from serving.exporter.gpu import GpuCollector
from serving.exporter.host import Host, HostCollector
from serving.exporter.nvml import Nvml
from serving.exporter.sampled import Sampled
from serving.exporter.watch import Watch
from serving.machine.notify import child_environment
from serving.metrics.status import StatusCollector

_ENDS_WITHIN_S = 2.0


def run_exporter(server_port: int, host: str, port: int) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises PortInUseError, or UsageError for an address that is not this machine's."""
    registry = make_registry(server_port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except PermissionError as error:
        raise UsageError(f"Port {port} is not open to this user: choose one above 1023.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"Another program listens on {host}:{port}. Choose another port with --listen-port, or with "
                "ONECARD_EXPORTER_PORT where `onecard serve` starts it (0: none); each onecard has an exporter of its own."
            ) from error
        raise UsageError(f"{host}:{port} cannot be listened on ({error.strerror or error}).") from error
    sys.stderr.write(f"onecard exporter: http://{host}:{port}/metrics, of the server on port {server_port}\n")
    stop.wait()
    server.shutdown()
    thread.join()


def make_registry(server_port: int) -> CollectorRegistry:
    """The exporter's collectors, their readings under way."""
    view = Sampled("server", Watch(server_port).read, interval_s=1.0)
    gpus = Sampled("gpu", Nvml().read, interval_s=1.0)
    around = Sampled("host", Host(server_port).read, interval_s=5.0, max_age_s=30.0)
    for readings in (view, gpus, around):
        readings.start()
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: view.last.status if view.last and view.fresh else None))
    registry.register(HostCollector(server_port, view, around))
    registry.register(GpuCollector(gpus))
    return registry


async def start_child(server_port: int, log: Path) -> asyncio.subprocess.Process | None:
    """The exporter as a child of the supervisor: it dies with it, and what it says goes to `log`.

    Where it listens, ONECARD_EXPORTER_HOST and ONECARD_EXPORTER_PORT say, else 127.0.0.1:8001; port 0 is none at all, and
    None. Where the port is taken it ends by itself with PortInUseError's exit code, and serving goes on.
    """
    if os.environ.get("ONECARD_EXPORTER_PORT") == "0":
        return None
    command = [sys.executable, "-m", "serving", "exporter", f"--port={server_port}", f"--parent={os.getpid()}"]
    with log.open("wb") as stream:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=child_environment(os.environ),
            start_new_session=True,
        )


async def end_of_child(exporter: asyncio.subprocess.Process, log: Path) -> str:
    """Waits for its end; why it has come, in words."""
    code = await exporter.wait()
    said = log.read_text(encoding="utf-8", errors="replace").split("\n") if code > 0 and log.is_file() else []
    last = next((line for line in reversed(said) if line.strip()), f"exit code {code}")
    return last.removeprefix("onecard: ")


async def end_child(exporter: asyncio.subprocess.Process) -> None:
    """Ends it; one that hangs, as in a driver that has died, is killed, and left to the kernel where even that takes long."""
    for end in (exporter.terminate, exporter.kill):
        with contextlib.suppress(ProcessLookupError):
            end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exporter.wait(), _ENDS_WITHIN_S)
            return
