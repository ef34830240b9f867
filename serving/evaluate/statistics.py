"""Paired statistics of right and wrong answers, and the drift between two next-token distributions. Pure functions.

`lost` are questions that the reference got right and the candidate wrong, `won` the other way round, `n` all of them.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import accumulate

Z_95 = 1.959963984540054


def mcnemar(lost: int, won: int) -> float:
    """The two-sided p-value of McNemar's test in its exact form: the discordant pairs are tosses of a fair coin.

    McNemar, Psychometrika 12 (1947); the exact form is the binomial test.
    """
    tosses = lost + won
    tail: int = sum(math.comb(tosses, k) for k in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / (1 << tosses)))


def score_interval(lost: int, won: int, n: int) -> tuple[float, float]:
    """The 95% interval of the loss (lost - won) / n by inverting the score test.

    Tango, Statistics in Medicine 17 (1998) 891-908. It holds for few discordant pairs and for none, where a bootstrap
    would say that nothing can ever be lost: 0 of 4,000 still leaves up to 0.1 points, 0 of 100 up to 3.7.
    """

    def score(delta: float) -> float:
        # The maximum-likelihood estimate of P(won) where P(lost) - P(won) = delta.
        a, b = 2 * n, -lost - won + (2 * n - lost + won) * delta
        c = -won * delta * (1 - delta)
        q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        return (lost - won - n * delta) / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, lost - won)

    middle = (lost - won) / n
    return _root(score, -1.0, middle, Z_95), _root(score, middle, 1.0, -Z_95)


def _root(score: Callable[[float], float], low: float, high: float, wanted: float) -> float:
    """Where the score, which falls with delta, is `wanted`; by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if abs(middle) < 1 and score(middle) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def bootstrap_interval(lost: int, won: int, n: int, *, rounds: int = 10_000, seed: int = 1) -> tuple[float, float]:
    """The 95% percentile interval of the loss, questions being drawn with replacement, each with both its answers.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Only the counts matter, so a round draws how
    many of `n` are lost and won (a multinomial) instead of `n` questions.
    """
    rng = random.Random(seed)
    discordant = _binomial_table(n, (lost + won) / n)
    losses = []
    share = _Table.of(lost, won)
    for _ in range(rounds):
        drawn = bisect_left(discordant, rng.random())
        losses.append((2 * share.draw(rng, drawn) - drawn) / n)
    losses.sort()
    return losses[int(0.025 * rounds)], losses[int(0.975 * rounds) - 1]


class _Table:
    """Cumulative binomial distributions of one probability, one for each number of tosses, made when first needed."""

    def __init__(self, p: float) -> None:
        self._p = p
        self._tables: dict[int, list[float]] = {}

    @classmethod
    def of(cls, lost: int, won: int) -> "_Table":
        return cls(lost / (lost + won) if lost + won else 0.0)

    def draw(self, rng: random.Random, tosses: int) -> int:
        if tosses not in self._tables:
            self._tables[tosses] = _binomial_table(tosses, self._p)
        return bisect_left(self._tables[tosses], rng.random())


def _binomial_table(n: int, p: float) -> list[float]:
    """P(X <= k) for k = 0…n. By logarithms, so that large n do not underflow."""
    if p <= 0 or p >= 1:
        return [1.0 if k >= (n if p >= 1 else 0) else 0.0 for k in range(n + 1)]
    log_p, log_q, of_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    terms = (
        math.exp(of_n - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q) for k in range(n + 1)
    )
    table = list(accumulate(terms))
    table[-1] = 1.0
    return table


def kl_divergence(reference: Mapping[str, float], candidate: Mapping[str, float]) -> float:
    """KL(reference ‖ candidate) in nats, from the log-probabilities of the likeliest tokens of each.

    Tokens that both name are compared one by one; all others are one outcome, which can only lower the sum (the data
    processing inequality): what is returned is a lower bound, and close to the whole where the named tokens carry it.
    """
    both = reference.keys() & candidate.keys()
    p = [math.exp(reference[token]) for token in both]
    q = [math.exp(candidate[token]) for token in both]
    p.append(max(0.0, 1 - sum(p)))
    q.append(max(1e-9, 1 - sum(q)))
    return max(
        0.0, sum(each * math.log(each / max(other, 1e-12)) for each, other in zip(p, q, strict=True) if each > 0)
    )
