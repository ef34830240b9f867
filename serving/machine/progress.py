"""The steps of a start: which one is running, read off vLLM's log, and how long it usually takes.

vLLM announces its steps in its log only; the patterns below are those of 0.26 to 0.33. A pattern that no longer
matches costs a line of progress and nothing else.
"""

import contextlib
import re
import time
from pathlib import Path

from serving.machine.state_dir import read_json, write_json

# key, what a person reads, the log line that begins it. In order.
STEPS: tuple[tuple[str, str, re.Pattern[str] | None], ...] = (
    ("import", "starting Python and vLLM", None),
    ("config", "reading the model's config", re.compile(r"Resolved architecture|non-default args")),
    (
        "engine",
        "starting the engine process",
        re.compile(r"Initializing a V1 LLM engine|Waiting for \d+ .*core engine"),
    ),
    ("weights", "loading the weights", re.compile(r"Starting to load model")),
    ("profile", "measuring the memory", re.compile(r"Model loading took|Loading weights took|Encoder cache will be")),
    ("compile", "compiling", re.compile(r"Dynamo bytecode transform|Compiling a graph|torch\.compile takes")),
    ("graphs", "capturing CUDA graphs", re.compile(r"Capturing CUDA graphs|Profiling CUDA graph")),
    ("api", "opening the API", re.compile(r"Supported tasks")),
    ("warmup", "warming up with a text and a picture", None),
)
TITLES = {key: title for key, title, _ in STEPS}
_ORDER = {key: index for index, (key, _, _) in enumerate(STEPS)}


class Progress:
    """Follows one start, by the monotonic clock."""

    def __init__(self, typical_s: dict[str, float]) -> None:
        self._typical_s = typical_s
        self._began: dict[str, float] = {"import": time.monotonic()}
        self.step = "import"

    def see_log_line(self, line: str) -> bool:
        """Whether this line begins a later step than the one that is running."""
        for key, _, pattern in STEPS[_ORDER[self.step] + 1 :]:
            if pattern and pattern.search(line):
                return self.begin(key)
        return False

    def begin(self, step: str) -> bool:
        """Begins a step; False when it is not later than the one that is running."""
        if _ORDER[step] <= _ORDER[self.step]:
            return False
        self._began[step] = time.monotonic()
        self.step = step
        return True

    @property
    def title(self) -> str:
        return TITLES[self.step]

    def elapsed_s(self) -> float:
        """Seconds since the start began."""
        return time.monotonic() - self._began["import"]

    def typical_step_s(self) -> float | None:
        """What the running step took the last time."""
        return self._typical_s.get(self.step)

    def seconds_left(self) -> float | None:
        """The time that the last start took from the running step on, less what has passed of the step; None at the first
        start. A step that is overdue is expected to take as long again as it is overdue: a client that is told "now" again and
        again gives up."""
        if not self._typical_s:
            return None
        in_step = time.monotonic() - self._began[self.step]
        later = sum(s for key, s in self._typical_s.items() if _ORDER.get(key, 0) > _ORDER[self.step])
        return later + abs(self._typical_s.get(self.step, 0.0) - in_step)

    def durations_s(self) -> dict[str, float]:
        """Seconds of each step so far; the running one until now."""
        marks = sorted(self._began.items(), key=lambda mark: mark[1])
        ends = [began for _, began in marks[1:]] + [time.monotonic()]
        return {key: round(end - began, 2) for (key, began), end in zip(marks, ends, strict=True)}


def read_typical(folder: Path, what: str) -> dict[str, float]:
    """Seconds of each step of the last start of `what` (profile and model)."""
    timings = read_json(folder / "timings.json")
    steps = timings.get(what) if isinstance(timings, dict) else None
    return {key: float(value) for key, value in steps.items()} if isinstance(steps, dict) else {}


def keep_typical(folder: Path, what: str, durations_s: dict[str, float]) -> None:
    """Keeps them for the next start. A full disk costs the estimate and nothing else."""
    timings = read_json(folder / "timings.json")
    with contextlib.suppress(OSError):
        write_json(folder / "timings.json", (timings if isinstance(timings, dict) else {}) | {what: durations_s})
