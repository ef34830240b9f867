"""How long does one client wait? One request at a time, each about another picture."""

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.target import Scope, Target
from benchmarks.workload import PHOTO


def _measure(target: Target) -> Figures:
    return target.closed_loop(PHOTO, 1).figures()


def cases(_scope: Scope) -> list[Case]:
    return [Case("1 client", _measure)]


QUESTION = Question(
    "latency",
    "one client, one picture of 1024×768",
    cases,
    told=("first_token_ms", "per_token_ms", "total_ms", "gpu_busy"),
)
