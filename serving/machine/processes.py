"""The server's process group: started together, ended together, and nothing left of it afterwards."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

SERVER = (sys.executable, "-m", "serving.server")
# Ctrl-C ends everything within ten seconds: this for a clean end, the rest for killing and clearing up.
STOP_GRACE_S = 6.0
# What killing and clearing up may take on a busy machine.
_CLEARING_S = 14.0
_LOOK_EVERY_S = 0.1
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108


def longest_end_s(drain_s: float) -> float:
    """The most that a onecard may take to end, from the signal on: its answers' time, the clean end, and clearing up."""
    return drain_s + STOP_GRACE_S + _CLEARING_S


class ServerProcess:
    """The server in a process group of its own, so that Ctrl-C reaches the supervisor alone."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log = process.stdout
        self._shared_memory: set[str] = set()

    @classmethod
    async def start(
        cls, command: tuple[str, ...], inherited: tuple[int, ...], environment: dict[str, str]
    ) -> "ServerProcess":
        """Starts it with these descriptors inherited; its output is one stream, `log`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=inherited,
            start_new_session=True,
            env=environment,
            limit=2**20,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Waits for the API process and returns its exit code. asyncio's own `wait` also waits for the output pipe to close,
        which the processes that the server has started keep open."""
        while self._process.returncode is None:
            await asyncio.sleep(_LOOK_EVERY_S)
        return self._process.returncode

    def drain(self) -> None:
        """Asks the server to take no new requests and to finish those that it has."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Kills the whole group at once, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def remember_shared_memory(self) -> None:
        """Notes which shared memory the group has mapped, while its processes still live."""
        for pid in _group(self.pid):
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
                words = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if _SHARED_MEMORY in line)
                self._shared_memory.update(word.removesuffix(" (deleted)") for word in words)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then after `grace_s` SIGKILL to all; returns when no process of the group is left."""
        self.remember_shared_memory()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_s)
        await self.clear()

    async def clear(self) -> None:
        """Kills what is left of the group, and removes the shared memory that it left behind."""
        self.remember_shared_memory()
        self.kill()
        await self.wait()
        for _ in range(50):
            if not any(_group(self.pid)):
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        for file in self._shared_memory:
            with contextlib.suppress(OSError):
                os.unlink(file)


def _group(leader: int) -> Iterator[int]:
    """The live processes of that process group (field 5 of /proc/PID/stat; a zombie holds nothing any more)."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (
                    Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                )
                if int(fields[2]) == leader and fields[0] != "Z":
                    yield int(entry)
