"""How long until it can be asked? With nothing compiled before, and with what the last start has compiled.

run.py starts the servers; here is what is counted. "Empty" means the caches of vLLM, Inductor, Triton, FlashInfer and the
CUDA driver; the files of vLLM and of the model are in the page cache after the first start of a run, which
`--repetitions` shows.
"""

from benchmarks.questions import Case, Question
from benchmarks.target import Scope

EMPTY, WARM = "empty caches", "warm caches"
CASES = (EMPTY, WARM)


def cases(_scope: Scope) -> list[Case]:
    """None that a running server could be asked."""
    return []


QUESTION = Question("start", "from the command to ready", cases, told=("ready_s",))
