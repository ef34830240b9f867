"""No picture at all: what the language model does alone, and so what pictures cost."""

from functools import partial

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.questions.throughput import clients_of
from benchmarks.target import Scope, Target
from benchmarks.workload import TEXT


def _measure(target: Target, clients: int) -> Figures:
    return target.closed_loop(TEXT, clients).figures()


def cases(scope: Scope) -> list[Case]:
    return [Case(clients_of(number), partial(_measure, clients=number)) for number in (1, max(scope.clients))]


QUESTION = Question("text", TEXT.title, cases, told=("tokens_per_s", "first_token_ms", "per_token_ms"))
