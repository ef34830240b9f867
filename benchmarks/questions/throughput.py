"""How much does it do in a second, for one client and for many? Each client asks again as soon as it is answered."""

from functools import partial

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.target import Scope, Target
from benchmarks.workload import PHOTO


def _new_pictures(target: Target, clients: int) -> Figures:
    return target.closed_loop(PHOTO, clients).figures()


def _same_pictures(target: Target, clients: int) -> Figures:
    """What was sent just before: here a cache of processed pictures, and one of prompts' beginnings, would show."""
    return target.again(PHOTO, clients).figures()


def cases(scope: Scope) -> list[Case]:
    """A case for each number of clients, and the last of them with the same pictures again."""
    many = max(scope.clients)
    return [
        *(Case(clients_of(number), partial(_new_pictures, clients=number)) for number in scope.clients),
        Case(f"{clients_of(many)}, the same pictures again", partial(_same_pictures, clients=many)),
    ]


def clients_of(number: int) -> str:
    return f"{number} client{'s' if number > 1 else ''}"


QUESTION = Question(
    "throughput",
    "each client one picture of 1024×768 at a time",
    cases,
    told=("images_per_s", "tokens_per_s", "first_token_ms", "per_token_ms", "api_cpu_ms"),
)
