"""One run of a command of the installation: what it is doing now, shown; its interruption, clean; its failure, explained.

pip's own words go to a log file. What a person sees is one line, renewed in place on a terminal and printed every few
seconds elsewhere, that says which package is on its way, how much has been written and for how long.
"""

import ctypes
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from serving.errors import DiskFullError, NotInstalledError, OnecardError
from serving.setup.machine import free_mib

HEARTBEAT_S = 5.0
STOP_S = 4.0
"""How long an interrupted pip may take to leave by itself."""
TAIL_LINES = 60
FULL_MIB = 100
"""With less than this free, a failure is the disk's."""
PR_SET_PDEATHSIG = 1
NETWORK = re.compile(
    r"connection broken|Failed to establish|Could not fetch URL|Max retries|timed out|name resolution|ProxyError|"
    r"Cannot connect to proxy|SSLError|CERTIFICATE_VERIFY|ConnectionResetError|HTTP error 5\d\d|IncompleteRead",
    re.IGNORECASE,
)
NO_SPACE = re.compile(r"No space left on device|Errno 28\b|Disk quota exceeded", re.IGNORECASE)


class Screen:
    """The line that says what is going on."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._next = 0.0

    def begin(self, title: str) -> None:
        self._next = 0.0 if self._live else time.monotonic() + HEARTBEAT_S
        self._write(title, keep=not self._live)

    def now(self, title: str, doing: str, seconds: float) -> None:
        """At most once a second on a terminal, every HEARTBEAT_S elsewhere; earlier calls are dropped."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.5 if self._live else HEARTBEAT_S)
        self._write(f"{title}  {seconds:.0f} s, {doing}", keep=not self._live)

    def say(self, line: str) -> None:
        self._write(line, keep=True)

    def _write(self, line: str, *, keep: bool) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line if keep else line[:width]}" + ("\n" if keep else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


@dataclass
class Activity:
    """What pip is doing, from its own words. Feed it one line at a time."""

    doing: str = "working"
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    _file: str = ""

    def feed(self, line: str) -> None:
        if found := re.match(r"Progress (\d+) of (\d+)", line):
            done, total = (int(number) / 1e6 for number in found.groups())
            self.doing = f"downloading {self._file} {done:.0f} of {total:.0f} MB"
            return
        self.tail.append(line)
        if found := re.match(r"\s*Downloading (?:\S*/)?([A-Za-z0-9_.]+)-\S+(?: \(([^)]*)\))?", line):
            self._file = found.group(1)
            self.doing = f"downloading {self._file}" + (f" {found.group(2)}" if found.group(2) else "")
        elif found := re.match(r"Collecting ([A-Za-z0-9_.-]+)", line):
            self.doing = f"looking up {found.group(1)}"
        elif line.startswith("Installing collected packages"):
            self.doing = f"installing {line.partition(':')[2].count(',') + 1} package(s)"
        elif "Retrying" in line:
            self.doing = "the connection broke, trying again"


@dataclass(frozen=True)
class Done:
    returncode: int
    tail: Sequence[str]
    least_free_mib: int = FULL_MIB
    """The least room that the disk had meanwhile; pip itself takes a full disk for a broken connection."""


def run(command: Sequence[str], title: str, *, cwd: Path, env: Mapping[str, str], log: Path, screen: Screen) -> Done:
    """Runs `command` to its end. Whatever interrupts it here stops it first, with everything that it started."""
    activity = Activity()
    began = time.monotonic()
    with log.open("ab") as record, selectors.DefaultSelector() as ready:
        record.write(f"\n$ {' '.join(command)}\n".encode())
        # A process group of its own: it is we who decide how Ctrl-C reaches it, on a terminal or by `kill`.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            process_group=0,
            preexec_fn=_die_with_parent,
        )
        try:
            if process.stdout is None:
                raise OSError("no pipe to the command")
            output = process.stdout.fileno()
            ready.register(output, selectors.EVENT_READ)
            rest, free = b"", free_mib(cwd)
            while True:
                if ready.select(timeout=0.5):
                    chunk = os.read(output, 65536)
                    if not chunk:
                        break
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if not line.startswith(b"Progress "):
                            record.write(line + b"\n")
                        activity.feed(line.decode(errors="replace").rstrip())
                record.flush()
                free = min(free, free_mib(cwd))
                screen.now(title, activity.doing + _written(process.pid), time.monotonic() - began)
            return Done(process.wait(), tuple(activity.tail), free)
        finally:
            stop(process)


def _die_with_parent() -> None:
    """In the child: asks the kernel for SIGTERM when the parent dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _written(pid: int) -> str:
    """How much the process has written so far; empty where it is little, or the kernel does not count it."""
    try:
        found = re.search(r"^wchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    except OSError:
        return ""
    megabytes = int(found.group(1)) // 1_000_000 if found else 0
    return f", {megabytes} MB written" if megabytes else ""


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group of `process`: politely, then not."""
    for polite in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        _signal_group(process.pid, polite)
        try:
            process.wait(timeout=STOP_S / 2)
        except subprocess.TimeoutExpired:
            continue
    _signal_group(process.pid, signal.SIGKILL)  # what the leader left behind
    if process.stdout is not None:
        process.stdout.close()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def explain(what: str, done: Done, log: Path) -> OnecardError:
    """The paragraph for a command that failed: what, why as far as its last words tell, and what to do next."""
    text = "\n".join(done.tail)
    # pip repeats itself; its last ERROR line is the verdict.
    errors = [line for line in done.tail if line.startswith(("ERROR:", "error:", "× "))]
    verdict = [f"exit code {done.returncode}", *done.tail, *errors][-1].removeprefix("ERROR: ").strip()[:300]
    again = "Then run the same command again: it goes on from here."
    if NO_SPACE.search(text) or done.least_free_mib < FULL_MIB:
        return DiskFullError(
            f"The disk became full while installing {what}. Free some space where the checkout lies (or pip's cache, "
            f"see `pip cache dir`; `pip cache purge` empties it). {again} Details: {log}"
        )
    if NETWORK.search(text):
        index = next((line for line in done.tail if line.startswith("Looking in indexes:")), "")
        asked = f" It asked {index.removeprefix('Looking in indexes:').strip()}." if index else ""
        proxies = [name for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy") if os.environ.get(name)]
        proxy = f" {' and '.join(proxies)} is set." if proxies else ""
        return NotInstalledError(
            f"{what} could not be installed, because pip does not reach its package index.{asked}{proxy} Check the "
            f"network; behind a proxy set HTTPS_PROXY, with a mirror set PIP_INDEX_URL or `pip config set "
            f"global.index-url URL`. {again} pip said: {verdict} Details: {log}"
        )
    return NotInstalledError(f"{what} could not be installed. pip said: {verdict} Details: {log}. {again}")
