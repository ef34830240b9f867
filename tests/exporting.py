"""A running `onecard exporter`, and a card whose answers a test can change."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.ending import TIED
from serving.machine.port import free_port
from tests import nvml
from tests.conftest import ONECARD

# Longer than any reading takes; the tests wait for what they expect and assert no time.
PATIENCE_S = 60


class Exporter:
    """A running `onecard exporter`."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self.process = port, process

    def scrape(self) -> dict[str, float]:
        """The samples by name and labels, as `onecard_state{state="ready"}`."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10, trust_env=False).text
        return {
            sample.name
            + ("{" + ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items())) + "}" if sample.labels else ""): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def until(self, holds: Callable[[dict[str, float]], bool], patience_s: float = PATIENCE_S) -> dict[str, float]:
        """The first scrape of which that holds."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if holds(seen := self.scrape()):
                return seen
            time.sleep(0.1)
        pytest.fail(f"never came: {seen}")


@contextmanager
def exporting(state_dir: Path, server_port: int, **environment: str) -> Iterator[Exporter]:
    port = free_port()
    process = subprocess.Popen(
        [*TIED, *ONECARD, "exporter", "--port", str(server_port), "--listen-port", str(port)],
        stderr=subprocess.PIPE,
        env=os.environ | {"ONECARD_STATE_DIR": str(state_dir)} | environment,
    )
    try:
        assert process.stderr is not None
        assert b"/metrics" in process.stderr.readline()
        yield Exporter(port, process)
    finally:
        process.terminate()
        process.wait(20)
        if process.stderr:
            process.stderr.close()


class Card:
    """A GPU as tests/nvml plays it; `environment` is what makes it a process's own."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "card.txt"
        self._hangs = Path(f"{self._file}.hangs")
        self.environment = {"LD_LIBRARY_PATH": str(nvml.build(folder)), "ONECARD_TEST_NVML": str(self._file)}
        self.tells()

    def tells(self, **answers: str) -> None:
        """From now on it gives the recorded answers, but for these; an empty one is no answer. Changed as a whole."""
        kept = [line for line in nvml.H200.read_text().splitlines() if line.split()[0] not in answers]
        new = self._file.with_suffix(".new")
        new.write_text("\n".join([*kept, *(f"{name} {value}" for name, value in answers.items() if value)]) + "\n")
        new.replace(self._file)

    def hangs(self, whether: bool) -> None:
        """Whether every question waits."""
        if whether:
            self._hangs.touch()
        else:
            self._hangs.unlink()
