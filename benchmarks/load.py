"""One run of load and what it came to: the generator's own record of each request, and the figures made of it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Figures = dict[str, float]


@dataclass(frozen=True)
class Answer:
    """One answered request. Seconds; `first_token_s` from its sending, `gaps_s` between the pieces that followed."""

    first_token_s: float
    total_s: float
    tokens: int
    prompt_tokens: int
    gaps_s: tuple[float, ...] = ()

    @property
    def per_token_s(self) -> float | None:
        """Of each token after the first; None where the answer came in one piece."""
        return (self.total_s - self.first_token_s) / (self.tokens - 1) if self.gaps_s and self.tokens > 1 else None


@dataclass(frozen=True)
class Load:
    """`seconds` from the first request's sending to the last one's end; `generator_busy` is the share of one core that the
    generator took, which is one process; `gpu_busy` the share of the time in which the GPU worked, and `api_cpu_s` the CPU
    seconds of the server's API, where either was watched (watch.py)."""

    seconds: float
    pictures_each: int
    answers: list[Answer]
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    generator_busy: float = 0.0
    gpu_busy: float | None = None
    api_cpu_s: float | None = None

    def figures(self) -> Figures:
        """What is told of a load. Raises ValueError where nothing was answered."""
        if not self.answers:
            raise ValueError(
                f"none of {self.failed} requests was answered: {'; '.join(self.errors) or 'no reason given'}"
            )
        first = [answer.first_token_s for answer in self.answers]
        per_token = [each for answer in self.answers if (each := answer.per_token_s) is not None]
        figures: Figures = {
            "requests": len(self.answers),
            "failed": self.failed,
            "images_per_s": round(len(self.answers) * self.pictures_each / self.seconds, 3),
            "requests_per_s": round(len(self.answers) / self.seconds, 3),
            "tokens_per_s": round(sum(answer.tokens for answer in self.answers) / self.seconds, 1),
            "first_token_ms": _ms(statistics.median(first)),
            "first_token_p99_ms": _ms(percentile(first, 99)),
            "total_ms": _ms(statistics.median(answer.total_s for answer in self.answers)),
            "prompt_tokens": statistics.median(answer.prompt_tokens for answer in self.answers),
            "answer_tokens": statistics.median(answer.tokens for answer in self.answers),
            "generator_busy": round(self.generator_busy, 2),
        }
        if self.gpu_busy is not None:
            figures["gpu_busy"] = round(self.gpu_busy, 2)
        if self.api_cpu_s is not None:
            figures["api_cpu_ms"] = _ms(self.api_cpu_s / (len(self.answers) + self.failed), 2)
        if per_token:
            figures["per_token_ms"] = _ms(statistics.median(per_token), 3)
            figures["per_token_p99_ms"] = _ms(percentile(per_token, 99), 3)
        return figures

    def stalls(self) -> Figures:
        """How long an answer stood still in its middle: the longest gap between two pieces, and beyond the median."""
        gaps = [gap for answer in self.answers for gap in answer.gaps_s] or [0.0]
        middle, longest = statistics.median(gaps), max(gaps)
        first = [answer.first_token_s for answer in self.answers]
        return {
            "longest_gap_ms": _ms(longest),
            "stall_ms": _ms(longest - middle),
            "first_token_longest_ms": _ms(max(first)),
            # The largest step between neighbours: a queue drains evenly, a compilation leaves a hole.
            "first_token_step_ms": _ms(max((b - a for a, b in pairwise(sorted(first))), default=0.0)),
        }

    def share_within(self, first_token_s: float, per_token_s: float) -> float:
        """Of all requests sent, those answered within both limits."""
        good = sum(
            answer.first_token_s <= first_token_s and (answer.per_token_s or 0.0) <= per_token_s
            for answer in self.answers
        )
        return good / max(1, len(self.answers) + self.failed)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(1, int(rank)) - 1]


def medians(repetitions: Sequence[Figures]) -> Figures:
    """The median of each figure over the repetitions that have it."""
    names = dict.fromkeys(name for figures in repetitions for name in figures)
    return {
        name: round(statistics.median(figures[name] for figures in repetitions if name in figures), 3) for name in names
    }


def _ms(seconds: float, digits: int = 1) -> float:
    return round(seconds * 1000, digits)
