"""How much of the time a GPU works, as NVML tells it: the share of the time in which at least one kernel ran, by whomever.
It says nothing of how well the kernels fill it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from urllib.parse import urlsplit

from serving.hardware import detect

# NVML's own figure is of the last sixth of a second or longer (nvml.h, nvmlUtilization_t): asking more often tells no more.
_SAMPLE_SECONDS = 0.1


def index_of(visible: str | None) -> int | None:
    """NVML's index of the first GPU that a program sees which is given CUDA_VISIBLE_DEVICES=`visible`; None for ours, and None
    is returned where there is no GPU."""
    if visible is not None and visible.isdigit():
        return int(visible)
    gpus = detect().gpus
    return gpus[0].index if gpus else None


def index_behind(url: str) -> int | None:
    """Likewise of the server at that address: only one on this machine can be watched."""
    return index_of(None) if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1") else None


class Watch:
    """What was seen of a GPU while it was watched."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []

    def share(self, last_seconds: float) -> float | None:
        """From 0 to 1, over the last so many seconds; None where nothing was seen of them."""
        if not self.samples:
            return None
        since = self.samples[-1][0] - last_seconds
        return fmean(busy for at, busy in self.samples if at >= since)


@contextmanager
def watching(gpu: int | None) -> Iterator[Watch]:
    """Watches GPU `gpu`, by NVML's index, while the context lasts; nothing where there is none."""
    watch = Watch()
    if gpu is None:
        yield watch
        return
    import pynvml

    pynvml.nvmlInit()
    card, ended = pynvml.nvmlDeviceGetHandleByIndex(gpu), threading.Event()

    def look() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            watch.samples.append((time.monotonic(), pynvml.nvmlDeviceGetUtilizationRates(card).gpu / 100))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
        pynvml.nvmlShutdown()
