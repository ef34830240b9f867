"""What a load does to the machine while it runs: how much of the time the GPU works, and how much CPU the server's API takes.

`gpu_busy` is NVML's: the share of the time in which at least one kernel ran, by whomever. It says nothing of how well the
kernels fill the GPU. `api_cpu_s` are the CPU seconds of all of the server's processes but the engine's, whose busy waiting
says nothing either: what reads, checks and prepares requests and sends answers, in one process behind one lock.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from urllib.parse import urlsplit

import psutil

from benchmarks.looking import looking
from serving.exporter.host import with_roles
from serving.machine.hardware import detect

# NVML's own figure is of the last sixth of a second or longer (nvml.h, nvmlUtilization_t): asking more often tells no more.
_SAMPLE_SECONDS = 0.1

Sample = tuple[float, float]


@dataclass
class Watch:
    """What was seen, each with its time: of the GPU the share in which it worked, of the API its CPU seconds so far."""

    gpu: list[Sample] = field(default_factory=list)
    api: list[Sample] = field(default_factory=list)

    def gpu_busy(self, last_seconds: float) -> float | None:
        """From 0 to 1, over the last so many seconds; None where nothing was seen of them."""
        seen = _last(self.gpu, last_seconds)
        return fmean(busy for _, busy in seen) if seen else None

    def api_cpu_s(self, last_seconds: float) -> float | None:
        """CPU seconds in the last so many seconds; None where nothing was seen."""
        seen = _last(self.api, last_seconds + _SAMPLE_SECONDS)
        return seen[-1][1] - seen[0][1] if len(seen) > 1 else None


def _last(samples: list[Sample], seconds: float) -> list[Sample]:
    return [sample for sample in samples if sample[0] >= samples[-1][0] - seconds]


def index_of(visible: str | None) -> int | None:
    """NVML's index of the first GPU that a program sees which is given CUDA_VISIBLE_DEVICES=`visible`, or what we are given
    where that is None. None where there is no GPU."""
    if visible is not None and visible.isdigit():
        return int(visible)
    gpus = detect().gpus
    return gpus[0].index if gpus else None


def index_behind(url: str) -> int | None:
    """Likewise of the server at that address: only one on this machine can be watched."""
    return index_of(None) if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1") else None


@contextmanager
def watching(gpu: int | None, server: int | None) -> Iterator[Watch]:
    """Watches GPU `gpu`, by NVML's index, and the server whose first process is `server`, while the context lasts; what is None
    is not watched."""
    watch = Watch()
    with contextlib.ExitStack() as stack:
        looks: list[tuple[list[Sample], Callable[[], float]]] = []
        if gpu is not None:
            looks.append((watch.gpu, stack.enter_context(_gpu_busy(gpu))))
        if server is not None:
            looks.append((watch.api, lambda: _api_seconds(server)))

        def look() -> None:
            for samples, value in looks:
                samples.append((time.monotonic(), value()))

        if looks:
            stack.enter_context(looking(look, _SAMPLE_SECONDS))
        yield watch


@contextmanager
def _gpu_busy(gpu: int) -> Iterator[Callable[[], float]]:
    import pynvml

    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(gpu)
    try:
        yield lambda: float(pynvml.nvmlDeviceGetUtilizationRates(card).gpu) / 100
    finally:
        pynvml.nvmlShutdown()


def _api_seconds(server: int) -> float:
    """Of the server's processes but the engine's. A process that ends meanwhile is left out."""
    spent = 0.0
    for process, role in with_roles(server):
        with contextlib.suppress(psutil.Error):
            if role != "engine":
                times = process.cpu_times()
                spent += times.user + times.system
    return spent
