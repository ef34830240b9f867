"""A GPU's memory as the whole device sees it: how much is used, its peak while something runs, and most of it held by another
process, as if the card were a smaller one.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from benchmarks.looking import looking
from benchmarks.memory_holder import HELD

MIB = 2**20
_SAMPLE_SECONDS = 0.01
# What is given back by a process that has ended shows after at most so long, and is all of it once nothing changed for so long.
_FREE_SECONDS = 30
_STILL_SECONDS = 0.5
_NEARLY_MIB = 16


def used_mib(gpu: int) -> int:
    """The device's used memory, all programs', in MiB (rounded up)."""
    import pynvml

    return -(-int(pynvml.nvmlDeviceGetMemoryInfo(_handle(gpu)).used) // MIB)


def total_mib(gpu: int) -> int:
    """The device's whole memory in MiB."""
    import pynvml

    return int(pynvml.nvmlDeviceGetMemoryInfo(_handle(gpu)).total) // MIB


def device_name(gpu: int) -> str:
    """As NVML names it."""
    import pynvml

    return str(pynvml.nvmlDeviceGetName(_handle(gpu)))


def _handle(gpu: int) -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByIndex(gpu)


@contextmanager
def sampling(gpu: int) -> Iterator[dict[int, int]]:
    """The highest used memory in MiB of that GPU, while the context lasts or since it was taken out."""
    peak: dict[int, int] = {}

    def look() -> None:
        peak[gpu] = max(peak.get(gpu, 0), used_mib(gpu))

    with looking(look, _SAMPLE_SECONDS):
        yield peak


@contextmanager
def sampling_started(gpu: int) -> Iterator[dict[int, int]]:
    """The highest memory in MiB that each process which this one has started held, together with all that it started in turn,
    while the context lasts. For what is measured beside others: alone on an H200 it is 6 MiB less than what the device has in
    use more. Raises NVMLError where the driver does not tell, as in WSL2."""
    peaks: dict[int, int] = {}
    started_by: dict[int, int] = {}

    def look() -> None:
        held: Counter[int] = Counter()
        for pid, bytes_held in _held(gpu):
            if pid not in started_by:  # looked up once: climbing the tree takes longer than asking the driver
                started_by[pid] = _started_here(pid)
            held[started_by[pid]] += bytes_held
        for started, bytes_held in held.items():
            peaks[started] = max(peaks.get(started, 0), -(-bytes_held // MIB))

    _held(gpu)
    with looking(look, _SAMPLE_SECONDS):
        yield peaks


def _held(gpu: int) -> list[tuple[int, int]]:
    """Each process on the GPU with its bytes."""
    import pynvml

    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(_handle(gpu))
    return [(each.pid, each.usedGpuMemory or 0) for each in processes]


def _started_here(pid: int) -> int:
    """The process by which this one started `pid`, which may be `pid`; 0 where it did not, or `pid` has ended since."""
    with suppress(psutil.Error):
        parents = [pid, *(parent.pid for parent in psutil.Process(pid).parents())]
        if os.getpid() in parents[1:]:
            return parents[parents.index(os.getpid()) - 1]
    return 0


@contextmanager
def holding(gpu: int, leave_mib: int) -> Iterator[None]:
    """Another process holds all of the GPU's memory but `leave_mib` while the context lasts. Raises RuntimeError where it
    cannot; its own words are on stderr."""
    command = [sys.executable, "-m", "benchmarks.memory_holder", str(gpu), str(leave_mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        answer = holder.stdout.readline() if holder.stdout else ""
        if answer.strip() != HELD:
            raise RuntimeError(f"the memory of GPU {gpu} could not be held")
        try:
            yield
        finally:
            holder.kill()


def wait_until_free(gpu: int, before_mib: int) -> None:
    """Until the device uses no more than it did, or for half a minute."""
    ends = time.monotonic() + _FREE_SECONDS
    while used_mib(gpu) > before_mib + _NEARLY_MIB and time.monotonic() < ends:
        time.sleep(0.1)


@contextmanager
def giving_back(gpu: int | None) -> Iterator[list[int]]:
    """How many MiB the device has more after the block than before, as a list of one: what a program took that ends in it.
    Nothing else may come or go meanwhile. Empty without a GPU."""
    given: list[int] = []
    before = last = used_mib(gpu) if gpu is not None else 0
    yield given
    if gpu is None:
        return
    ends = time.monotonic() + _FREE_SECONDS
    while time.monotonic() < ends:
        time.sleep(_STILL_SECONDS)
        last, seen = used_mib(gpu), last
        if last == seen < before:
            break
    given.append(before - last)
