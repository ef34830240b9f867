"""The clients of `cards`, in as many processes as it takes not to be what is measured.
`python -m benchmarks.cards_load URL MODEL WIDTHxHEIGHT FIRST` is one of these.
"""

import asyncio
import dataclasses
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from benchmarks import worker
from benchmarks.fleet_load import Generator, Timed
from benchmarks.load import Answer, Load
from benchmarks.pictures import jpeg
from benchmarks.workload import pixels
from serving.fleet.simulate import open_arrivals

# A Xeon core is enough for 72 answers a second about pictures of 1024×768 that come in 32 pieces each, or 47 in 128 pieces.
# Sixteen clients of an H200 get ten a second: a fifth of a core.
_CLIENTS_EACH = 16
# From the order to the first arrival, so that no process of clients has it late.
_AHEAD_S = 1.0


@dataclass(frozen=True)
class Asked:
    """What became of each request, in seconds of `time.perf_counter`. `busy` is the share of a core that the busiest process
    of clients took."""

    requests: list[Timed]
    busy: float = 0.0

    def load(self, tokens: int, prompt_tokens: int) -> Load:
        """The figures' material; each answer has so many tokens. Raises ValueError where nobody asked."""
        if not self.requests:
            raise ValueError("nobody asked anything: the load was over before it began")
        answers = [
            Answer(each.first - each.at, each.end - each.at, tokens, prompt_tokens, each.gaps)
            for each in self.requests
            if not each.failed
        ]
        errors = [each.failed for each in self.requests if each.failed]
        seconds = max(each.end for each in self.requests) - min(each.at for each in self.requests)
        return Load(seconds, 1, answers, len(errors), sorted(set(errors))[:3], self.busy)


def poisson(per_s: float, seconds: float, seed: int) -> list[float]:
    """Moments at which independent people ask; the same ones for the servers and for the simulation."""
    return [request.at for request in open_arrivals(per_s, seconds, lambda: 1, random.Random(seed))]


class Clients:
    """At most so many clients with connections that are kept alive. What goes wrong in their processes is in `folder`. Raises
    WorkerError where they do not start."""

    def __init__(self, url: str, model: str, picture: tuple[int, int], count: int, folder: Path) -> None:
        width, height = picture
        self._count = count
        self._workers = [
            worker.Worker(
                "benchmarks.cards_load",
                url,
                model,
                f"{width}x{height}",
                str(place),
                log=folder / f"clients-{place}.log",
            )
            for place in range(-(-count // _CLIENTS_EACH))
        ]
        self.ask(1, clients=0)  # returns when all have started: it takes them seconds

    def ask(
        self, tokens: int, *, clients: int | None = None, seconds: float = math.inf, stop: Path | None = None
    ) -> Asked:
        """All clients, or so many, ask for so long, or until the file `stop` is there. Raises WorkerError."""
        ends = time.perf_counter() + seconds
        few, processes = self._count if clients is None else clients, len(self._workers)
        shares = [len(range(place, few, processes)) for place in range(processes)]
        return self._give(
            [{"clients": share, "tokens": tokens, "ends": ends, "stop": str(stop or "")} for share in shares]
        )

    def ask_at(self, tokens: int, moments: Sequence[float]) -> Asked:
        """A request at each of those seconds from soon on. Raises WorkerError."""
        soon = time.perf_counter() + _AHEAD_S
        processes = len(self._workers)
        return self._give(
            [
                {"tokens": tokens, "moments": [soon + each for each in moments[place::processes]]}
                for place in range(processes)
            ]
        )

    def close(self) -> None:
        for each in self._workers:
            each.stop()

    def _give(self, tasks: list[dict[str, Any]]) -> Asked:
        with ThreadPoolExecutor(len(tasks)) as threads:
            told = list(threads.map(lambda each, task: each.ask(task), self._workers, tasks))
        requests = [Timed(**fields) for each in told for fields in each["requests"]]
        return Asked(requests, max((each["busy"] for each in told if each["requests"]), default=0.0))


def main(words: Sequence[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns what runs one load. The connections outlast it, since all run in one event loop."""
    url, model, picture, first = words
    cv2.setNumThreads(1)  # the processes together are as many as the cores have to spare
    jpeg(0, *pixels(picture))  # makes what all pictures are cut from, once, before many threads want it
    generator = Generator([url], model, pixels(picture), int(first))
    runner = asyncio.Runner()

    def run(task: dict[str, Any]) -> dict[str, Any]:
        began, worked = time.perf_counter(), time.process_time()
        if "moments" in task:
            asked = runner.run(generator.at(task["moments"], task["tokens"]))
        else:
            stop = Path(task["stop"]) if task["stop"] else None

            def over() -> bool:
                return time.perf_counter() >= task["ends"] or (stop is not None and stop.exists())

            asked = runner.run(generator.until(over, task["clients"], task["tokens"]))
        busy = (time.process_time() - worked) / (time.perf_counter() - began)
        return {"requests": [dataclasses.asdict(each) for each in asked], "busy": busy}

    return run


if __name__ == "__main__":
    worker.serve(lambda: main(sys.argv[1:]))
