"""Large photographs and long pages: a camera's 12 megapixels, a scrolled screenshot. Servers shrink them as they please,
so `prompt_tokens` tells what the model was shown."""

from functools import partial

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.target import Scope, Target
from benchmarks.workload import LARGE, LONG, Workload


def _measure(target: Target, workload: Workload) -> Figures:
    return target.closed_loop(workload, 1).figures()


def cases(_scope: Scope) -> list[Case]:
    return [Case(workload.title, partial(_measure, workload=workload)) for workload in (LARGE, LONG)]


QUESTION = Question(
    "long", "large and long pictures, one client", cases, told=("first_token_ms", "total_ms", "prompt_tokens")
)
