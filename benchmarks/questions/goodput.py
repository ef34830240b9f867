"""How many requests a second can arrive before people wait? Requests come by chance (Poisson), however many are being
answered; the answer is the highest rate at which 99% of them keep both limits: time to first token and time per token.

The rate is doubled until it is too much and then bisected; each rate is tried for as long as 99% of its requests mean
something. A refused request has kept no limit.
"""

import math
from collections.abc import Callable

from benchmarks.load import Figures
from benchmarks.questions import Case, Question
from benchmarks.target import Scope, Target
from benchmarks.workload import PHOTO

GOOD = 0.99
_FEWEST, _SECONDS, _BISECTIONS = 50, 8.0, 4
# Below this share of what a closed loop does the search ends with 0: a rate so low takes long to try.
_LOWEST = 1 / 8


def highest_rate(keeps: Callable[[float], bool], start: float, lowest: float, bisections: int) -> float:
    """The highest rate that `keeps` admits: doubled or halved from `start` until it lies between two, then bisected. 0 when
    the lowest is too much already."""
    good, bad, rate = 0.0, math.inf, start
    while rate >= lowest and not (good and bad < math.inf):
        if keeps(rate):
            good, rate = rate, rate * 2
        else:
            bad, rate = rate, rate / 2
    if not good:
        return 0.0
    for _ in range(bisections):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if keeps(middle) else (good, middle)
    return good


def measure(target: Target) -> Figures:
    """The highest rate, and how the requests fared at it."""
    scope = target.scope
    at_best: Figures = {}

    def keeps(rate: float) -> bool:
        nonlocal at_best
        load = target.arrivals(PHOTO, rate, max(_FEWEST, round(rate * _SECONDS)))
        share = load.share_within(scope.first_token_ms / 1000, scope.per_token_ms / 1000)
        target.say(f"  {rate:.2f} requests/s: {share:.1%} within the limits")
        if share >= GOOD:
            at_best = load.figures()
        return share >= GOOD

    # Closed loops say about what can be had at all: doubling from half of it is the shorter way.
    full = target.closed_loop(PHOTO, min(16, max(scope.clients))).figures()["requests_per_s"]
    best = highest_rate(keeps, full / 2, full * _LOWEST, _BISECTIONS)
    return {"goodput_per_s": round(best, 3)} | at_best


def cases(scope: Scope) -> list[Case]:
    limits = f"first token within {scope.first_token_ms:g} ms, {scope.per_token_ms:g} ms a token"
    return [Case(limits, measure, repetitions=1)]


QUESTION = Question("goodput", f"Poisson arrivals, {GOOD:.0%} within the limits", cases, told=("goodput_per_s",))
