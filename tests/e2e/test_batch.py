"""A night's work with `onecard batch`: thousands of pictures, the program killed and the server restarted in the middle.

`ONECARD_BATCH` says how many; the findings go into docs/batch.json when ONECARD_WRITE_FAULTS is set."""

import datetime
import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests import drawing
from tests.conftest import ONECARD, Server
from tests.faults.table import DOCS, writing

COUNT = int(os.environ.get("ONECARD_BATCH", "2000"))
PROMPT = "What is in the picture?"
COLORS = ("red", "green", "blue", "yellow")
SHAPES = {"circle": drawing.circle, "square": drawing.square, "triangle": drawing.triangle}
WARM_UP = 32  # more pictures than it shows the model

pytestmark = [pytest.mark.long, pytest.mark.timeout(4 * 3600)]


def drawn(number: int) -> tuple[Image.Image, str]:
    """The picture of that number, and its right answer: a shape somewhere on a slightly noisy white."""
    chance = random.Random(number)
    color, shape = COLORS[number % len(COLORS)], list(SHAPES)[number // len(COLORS) % len(SHAPES)]
    image = drawing.blank(320, 240)
    SHAPES[shape](image, chance.randint(110, 210), chance.randint(100, 140), chance.randint(50, 75), color)
    noise = Image.frombytes("L", image.size, chance.randbytes(320 * 240)).point(lambda value: value // 64)
    return Image.merge("RGB", [Image.composite(c, c.point(lambda v: max(v - 3, 0)), noise.point(lambda v: v % 2 * 255))
                               for c in image.split()]), f"{color} {shape}"  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = tmp_path_factory.mktemp("night") / "pictures"
    pictures.mkdir()
    for number in range(COUNT):
        drawn(number)[0].save(pictures / f"{number:05}.png")
    return pictures


@contextmanager
def batch(server: Server, folder: Path, out: Path) -> Iterator[tuple[subprocess.Popen[str], list[float]]]:
    """A running `onecard batch`, and its memory in MiB, sampled as it runs."""
    process = subprocess.Popen(
        [*ONECARD, "batch", str(folder), "--prompt", PROMPT, "--out", str(out), "--port", str(server.port)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=server.environment,
    )  # fmt: skip
    memory: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        watched = psutil.Process(process.pid)
        while not ended.wait(0.5):
            try:
                memory.append(watched.memory_info().rss / 2**20)
            except psutil.Error:
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield process, memory
    finally:
        ended.set()
        sampler.join()
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def answered(out: Path) -> list[str]:
    """The ids in the journal, as often as they stand there."""
    file = out.with_name(out.name + ".journal")
    lines = file.read_bytes().split(b"\n")[1:-1] if file.exists() else []  # the last has no end, or is empty
    return [json.loads(line)["id"] for line in lines]


def until(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not done():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.1)


def pictures_seen(server: Server) -> float:
    """Pictures that the server process has looked at since it was started: one a request of a batch."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return sum(each.value for family in families for each in family.samples if each.name == "onecard_images_total")


def test_a_night_is_survived(server: Server, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    at_once = server.get("/onecard/status").json()["plan"]["capacity"]["max_num_seqs"]
    before, began = pictures_seen(server), time.monotonic()
    with batch(server, folder, out) as (process, memory):
        until(lambda: len(answered(out)) >= COUNT // 3, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        first = memory[:]
    until_idle(server)
    kept = len(answered(out))
    in_flight = pictures_seen(server) - before - kept  # asked, and not in the journal
    assert 0 <= in_flight <= 2 * at_once

    (api,) = psutil.Process(server.process.pid).children()
    with batch(server, folder, out) as (process, memory):
        until(lambda: len(answered(out)) >= 2 * COUNT // 3, process)
        there, killed = len(answered(out)), time.monotonic()
        api.kill()
        while server.is_ready():
            time.sleep(0.05)
        server.wait_until_ready()
        away_s = time.monotonic() - killed
        _, said = process.communicate()
        second = memory[:]
    took_s = time.monotonic() - began
    assert process.returncode == 0, said
    # Of what the old process answered, nothing was asked again but what was on its way; the warm-up has pictures of its own.
    assert pictures_seen(server) <= COUNT - there + 2 * at_once + WARM_UP

    times = Counter(answered(out))
    assert times == Counter(f"{number:05}.png" for number in range(COUNT))  # none missing, none twice
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [result["id"] for result in results] == sorted(times)  # in the order of the input
    right = sum(drawn(number)[1] in result["answer"] for number, result in enumerate(results))
    grown = growth_mib(second)
    size_mib = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    keep(
        {
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "pictures": COUNT, "right": right, "asked_twice_after_sigkill": int(in_flight), "answered_before_sigkill": kept,
            "server_away_s": round(away_s, 1), "seconds_in_all": round(took_s, 1), "pictures_mib": round(size_mib, 1),
            "memory_mib": {"first_run": of(first), "second_run": of(second), "growth_of_second_run": round(grown, 1)},
        }
    )  # fmt: skip
    assert right >= 0.95 * COUNT
    assert grown < max(16, size_mib / 4)


def until_idle(server: Server) -> None:
    while any(server.get("/onecard/status").json()["queue"].values()):
        time.sleep(0.1)


def growth_mib(memory: list[float]) -> float:
    """From the second quarter, when everything has been used once, to the last."""
    quarter = len(memory) // 4
    return statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter])


def of(memory: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(memory), 1), "most": round(max(memory), 1)}


def keep(findings: dict[str, object]) -> None:
    if writing():
        (DOCS / "batch.json").write_text(json.dumps(findings, indent=1) + "\n")
