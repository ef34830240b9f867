"""Where does the time go, function by function? py-spy looks at a server's two processes a hundred times a second while clients
ask: the engine, and the API with its guard.

A figure is the share of the time in which a thread was in that function or in what it called. A thread that sleeps is in none,
so that a thread's own figure is how busy it was; the two processes have one interpreter lock each, which their threads share.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.questions.throughput import clients_of
from benchmarks.target import NotServedError, Scope, Target
from benchmarks.workload import PHOTO
from serving.exporter.host import with_roles

_ENGINE, _API = "engine", "server"
_A_SECOND = 100
# Looking ends before the load does, or the last answers' draining would be what is seen.
_SECONDS, _MARGIN = 5, 5
_BUSY_PERCENT, _LOOK_S, _LATEST_S = 5, 0.2, 60
_LEAST_SHARE = 0.02
# A function with one that it calls in this share of its own time says nothing that the other does not.
_PASSES_ON = 0.9
# Where a thread waits for work; py-spy takes some of that for work.
_ASLEEP = re.compile(r"^(Condition\.wait|_PollLikeSelector\.select|Poller\.poll|_worker|GarbageCollectorThread\.run) ")
_OF_A_POOL = re.compile(r"[_-]\d+(?= \(|$)")


def shares(raw: str, samples: int) -> Figures:
    """From py-spy's `raw` format, lines of `thread (ID): NAME;outermost (file);…;innermost (file) COUNT`: each thread's share
    of that many samples, and those of its functions, a function that only calls another left out. The largest first.
    The threads of a pool are one, whose share can exceed 1."""
    threads: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    inside: dict[tuple[str, str], Counter[str]] = {}
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not frames or _ASLEEP.search(frames[-1]):
            continue
        name = _OF_A_POOL.sub("", thread.partition(": ")[2] or thread)
        threads[name] += int(count)
        for frame in set(frames):
            functions[name, frame] += int(count)
        for caller, called in {(a, b) for a, b in pairwise(frames) if a != b}:
            inside.setdefault((name, caller), Counter())[called] += int(count)
    figures = {thread: seen / samples for thread, seen in threads.items()}
    for (thread, frame), seen in functions.items():
        largest = max(inside.get((thread, frame), Counter()).values(), default=0)
        if largest < _PASSES_ON * seen:
            figures[f"{thread} · {frame}"] = seen / samples
    kept = {name: round(share, 3) for name, share in figures.items() if share >= _LEAST_SHARE}
    return dict(sorted(kept.items(), key=lambda item: (item[0].partition(" · ")[0], -item[1])))


def py_spy() -> str | None:
    """The program, of this environment first; None where it is not installed."""
    return shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def _looked_at(target: Target, role: str, clients: int) -> Figures:
    """Raises ValueError where py-spy is not installed or may not look."""
    if target.server_pid is None:
        raise NotServedError
    if (program := py_spy()) is None:
        raise ValueError("py-spy is not installed: `pip install py-spy`")
    process = _process(target.server_pid, role)
    with _asking(target, target.server_pid, clients), TemporaryDirectory(prefix="onecard-bench-") as folder:
        file = Path(folder) / "stacks"
        command = [program, "record", "--pid", str(process), "--output", str(file), "--format", "raw", "--threads"]
        command += ["--function", "--rate", str(_A_SECOND), "--duration", str(_SECONDS)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode or not file.is_file():
            raise ValueError(f"py-spy: {(told.stderr or told.stdout).strip().splitlines()[-1]}")
        return shares(file.read_text(encoding="utf-8"), _A_SECOND * _SECONDS)


@contextlib.contextmanager
def _asking(target: Target, server: int, clients: int) -> Iterator[None]:
    """A load that is under way, and lasts as long as the context. Raises ValueError where it was over before."""
    pilot = target.closed_loop(PHOTO, clients)
    count = round(len(pilot.answers) / pilot.seconds * (_SECONDS + _MARGIN))
    with ThreadPoolExecutor(1) as thread:
        load = thread.submit(target.closed_loop, PHOTO, clients, max(clients, count))
        _wait_until_busy(psutil.Process(_process(server, _API)))
        yield
        early = load.done()
        load.result()
    if early:
        raise ValueError("the load was over before it had been looked at")


def _wait_until_busy(process: psutil.Process) -> None:
    """The generator draws its pictures before it sends them; the API takes next to nothing while it waits."""
    process.cpu_percent()
    for _ in range(round(_LATEST_S / _LOOK_S)):
        if process.cpu_percent(_LOOK_S) > _BUSY_PERCENT:
            break
    time.sleep(1)  # all clients are to be under way


def _process(server: int, role: str) -> int:
    """By its role there (`with_roles`): the engine, or the API, which onecard's supervisor has started as `server`, and which
    is the first process of any other. Raises ValueError."""
    pids = {found: process.pid for process, found in reversed(list(with_roles(server)))}
    if role == _ENGINE and role not in pids:
        raise ValueError("the server has no engine process")
    return pids.get(role, server)


def cases(scope: Scope) -> list[Case]:
    """One process after the other, for the most clients and for one."""
    roles = {"engine process": _ENGINE, "API process": _API}
    return [
        Case(f"{name}, {clients_of(number)}", partial(_looked_at, role=role, clients=number), repetitions=1)
        for number in sorted({max(scope.clients), 1}, reverse=True)
        for name, role in roles.items()
    ]


QUESTION = Question("where", "what the processes do while clients ask", cases, told=("MainThread",))
