"""The clients of `cards`, in as many processes as it takes not to be what is measured.
`python -m benchmarks.cards_load URL MODEL WIDTHxHEIGHT FIRST` is one of these.
"""

import asyncio
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import worker
from benchmarks.fleet_load import Generator, Timed
from benchmarks.load import Answer, Load
from benchmarks.workload import pixels

# On a Xeon core reading a token takes a fifth of a millisecond: 16 clients at 90 tokens a second keep a third of it busy.
_CLIENTS_EACH = 16


@dataclass(frozen=True)
class Asked:
    """What became of each request, in seconds of `time.perf_counter`. `busy` is the share of a core that the busiest process
    of clients took."""

    requests: list[Timed]
    busy: float

    def load(self, tokens: int, prompt_tokens: int) -> Load:
        """The figures' material; each answer has so many tokens."""
        answers = [
            Answer(each.first - each.at, each.end - each.at, tokens, prompt_tokens, each.gaps)
            for each in self.requests
            if not each.failed
        ]
        errors = [each.failed for each in self.requests if each.failed]
        seconds = max(each.end for each in self.requests) - min(each.at for each in self.requests)
        return Load(seconds, 1, answers, len(errors), sorted(set(errors))[:3], self.busy)


class Clients:
    """So many clients with connections that are kept alive. What goes wrong in their processes is in `folder`."""

    def __init__(self, url: str, model: str, picture: tuple[int, int], count: int, folder: Path) -> None:
        width, height = picture
        processes = -(-count // _CLIENTS_EACH)
        self._shares = [len(range(place, count, processes)) for place in range(processes)]
        self._workers = [
            worker.Worker(
                "benchmarks.cards_load",
                url,
                model,
                f"{width}x{height}",
                str(place),
                log=folder / f"clients-{place}.log",
            )
            for place in range(len(self._shares))
        ]

    def ask(self, tokens: int, *, seconds: float = float("inf"), stop: Path) -> Asked:
        """Asks for so long, or until the file `stop` is there. Raises WorkerError."""
        ends = time.perf_counter() + seconds
        tasks = [{"clients": share, "tokens": tokens, "ends": ends, "stop": str(stop)} for share in self._shares]
        with ThreadPoolExecutor(len(tasks)) as threads:
            told = list(threads.map(lambda each, task: each.ask(task), self._workers, tasks))
        requests = [Timed(**fields) for each in told for fields in each["requests"]]
        return Asked(requests, max(each["busy"] for each in told))

    def close(self) -> None:
        for each in self._workers:
            each.close()


def main(words: Sequence[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns what runs one load. The connections outlast it, since all run in one event loop."""
    url, model, picture, first = words
    generator = Generator([url], model, pixels(picture), int(first))
    runner = asyncio.Runner()

    def run(task: dict[str, Any]) -> dict[str, Any]:
        stop = Path(task["stop"])
        began, worked = time.perf_counter(), time.process_time()

        def over() -> bool:
            return time.perf_counter() >= task["ends"] or stop.exists()

        asked = runner.run(generator.until(over, task["clients"], task["tokens"]))
        busy = (time.process_time() - worked) / (time.perf_counter() - began)
        return {"requests": [dataclasses.asdict(each) for each in asked], "busy": busy}

    return run


if __name__ == "__main__":
    worker.serve(lambda: main(sys.argv[1:]))
