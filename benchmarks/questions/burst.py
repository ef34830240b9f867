"""Is it as fast at once as later? The first requests after "ready" against the next ones: what is compiled or allocated
only when a burst arrives shows as a slow first burst, and as answers that stand still.

A server has one first burst, so a run without the question `start` measures it once for each start.
"""

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.target import Scope, Target
from benchmarks.workload import PHOTO

CLIENTS, PICTURES = 16, 64


def measure(target: Target) -> Figures:
    """One burst."""
    clients = min(CLIENTS, max(target.scope.clients))
    load = target.closed_loop(PHOTO, clients, count=clients * PICTURES // CLIENTS)
    return load.figures() | load.stalls()


FIRST, SECOND = Case("first burst after ready", measure, repetitions=1), Case("second burst", measure, repetitions=1)


def cases(_scope: Scope) -> list[Case]:
    return [FIRST, SECOND]


QUESTION = Question(
    "burst",
    f"{CLIENTS} clients, {PICTURES} pictures",
    cases,
    told=("images_per_s", "tokens_per_s", "stall_ms", "first_token_step_ms"),
)
