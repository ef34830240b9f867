"""Several pictures in one request: comparing them is what people do with four."""

from functools import partial

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.questions.throughput import clients_of
from benchmarks.target import Scope, Target
from benchmarks.workload import SEVERAL


def _measure(target: Target, clients: int) -> Figures:
    return target.closed_loop(SEVERAL, clients).figures()


def cases(scope: Scope) -> list[Case]:
    return [Case(clients_of(number), partial(_measure, clients=number)) for number in (1, min(8, max(scope.clients)))]


QUESTION = Question("several", SEVERAL.title, cases, told=("images_per_s", "first_token_ms", "total_ms"))
