"""The machine around the server: disks, memory, and onecard's processes. Read beside the scrapes (sampled.py)."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from serving.exporter.sampled import Sampled
from serving.exporter.watch import View
from serving.machine.progress import read_typical
from serving.machine.state_dir import read_json, run_dir
from serving.metrics import catalog
from serving.metrics.families import Sample, counter, gauge

# A word of the command line or the process's own title (vLLM names its processes), and what it is. First match counts.
ROLES = (("serving.server", "server"), ("EngineCore", "engine"), ("VLLM::Worker", "engine"), ("exporter", "exporter"))
Samples = dict[catalog.Metric, list[Sample]]


class Host:
    """Reads what surrounds the server on `port`."""

    def __init__(self, port: int) -> None:
        self._folder = run_dir(port)

    def read(self) -> Samples:
        samples: Samples = {catalog.HOST_MEMORY_AVAILABLE: [((), psutil.virtual_memory().available)]}
        launch = read_json(self._folder / "launch.json")
        model = launch.get("model_folder") if isinstance(launch, dict) else None
        folders = {"state": self._folder, "cache": _cache()} | ({"model": Path(model)} if model else {})
        for name, folder in folders.items():
            usage = shutil.disk_usage(_existing(folder))
            samples.setdefault(catalog.DISK_FREE, []).append(((name,), usage.free))
            samples.setdefault(catalog.DISK_SIZE, []).append(((name,), usage.total))
        facts = read_json(self._folder / "server.json")
        if isinstance(facts, dict) and isinstance(facts.get("pid"), int):
            samples |= _processes(facts["pid"])
        return samples


class HostCollector(Collector):
    """`view` tells of the server, `host` of what surrounds it."""

    def __init__(self, port: int, view: Sampled[View], host: Sampled[Samples]) -> None:
        self._folder = run_dir(port)
        self._view, self._host = view, host

    def collect(self) -> Iterable[Metric]:
        view = self._view.last
        if view is not None:
            yield gauge(catalog.UP, [((), float(view.up and self._view.fresh))])
            yield counter(catalog.STATE_SECONDS, [((state,), s) for state, s in view.state_seconds.items()])
            if view.started_at is not None:
                yield gauge(catalog.STARTED_AT, [((), view.started_at)])
            if view.launch is not None:
                steps = read_typical(self._folder, view.launch.timings_key).items()
                yield gauge(catalog.START_SECONDS, [((step,), seconds) for step, seconds in steps])
        # Of a disk or a process that does not answer even the kernel, old figures would look like now's, and no alert fire.
        for metric, samples in ((self._host.last or {}) if self._host.fresh else {}).items():
            yield gauge(metric, samples)

    def describe(self) -> Iterable[Metric]:
        """Nothing is read to register it."""
        return ()


def _processes(supervisor: int) -> Samples:
    """Memory, files and threads, summed by role."""
    sums: dict[str, list[float]] = {}
    for process, role in with_roles(supervisor):
        with contextlib.suppress(psutil.Error):  # it has just ended
            with process.oneshot():
                now = (process.memory_info().rss, process.num_fds(), process.num_threads())
            sums[role] = [a + b for a, b in zip(sums.get(role, [0.0] * 3), now, strict=True)]
    metrics = (catalog.PROCESS_MEMORY, catalog.PROCESS_FILES, catalog.PROCESS_THREADS)
    return {metric: [((role,), values[index]) for role, values in sums.items()] for index, metric in enumerate(metrics)}


def with_roles(supervisor: int) -> Iterator[tuple[psutil.Process, str]]:
    """A server's processes, and what each of them is; none where it has ended."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(supervisor)
        yield parent, "supervisor"
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(child.cmdline())
                yield child, next((role for word, role in ROLES if word in words), "other")


def _cache() -> Path:
    """Where the hub's downloads go (huggingface_hub's own rule)."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.exists())
