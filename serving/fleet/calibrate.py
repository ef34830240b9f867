"""The times of a card from what its clients saw: those with which the simulation shows the same. Pure.

    delay + prompt + step(1)    one client's first token
    step(1)                     each of its tokens after that
    prompt                      so that many clients get as many answers a second as they did: found by bisection
    sequence                    so that their first token's median is theirs: by bisection around that one

A formula for the last two would have to know which requests wait for which, and that is what the simulation knows.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.fleet.cards import Measured

# A search ends when what it seeks is met as closely as this, or after so many halvings.
_CLOSE = 0.001
_HALVINGS = 20
# What is left of a prompt or a step, in seconds, where a measurement leaves nothing of it.
_LEAST_S = 1e-6


@dataclass(frozen=True)
class Alone:
    """What one client saw with nobody else about: medians in seconds."""

    first_token_s: float
    per_token_s: float

    def times(self, prompt_s: float, sequence_s: float, prompt_tokens: int) -> Measured:
        """The times with which one client sees that: what of its first token is neither prompt nor step has passed beside
        the engine. A longer prompt than that leaves no delay, and one client waits longer than it did."""
        return Measured(
            delay_s=max(0.0, self.first_token_s - prompt_s - self.per_token_s),
            prompt_s=prompt_s,
            prompt_tokens=prompt_tokens,
            step_s=max(_LEAST_S, self.per_token_s - sequence_s),
            sequence_s=sequence_s,
        )


@dataclass(frozen=True)
class Seen:
    """What many clients saw: answers a second, and the median seconds to their first token."""

    per_s: float
    first_token_s: float


def fit(alone: Alone, seen: Seen, prompt_tokens: int, simulate: Callable[[Measured], Seen]) -> Measured:
    """Prompt and sequence from one load of many clients, which `simulate` repeats. Where even answers that add nothing to a
    step do not let clients wait as long as they did, they add nothing. Raises ValueError as `fit_prompt` does."""

    def prompt_for(sequence_s: float) -> Measured:
        return fit_prompt(
            lambda prompt_s: alone.times(prompt_s, sequence_s, prompt_tokens),
            lambda times: simulate(times).per_s,
            seen.per_s,
        )

    def waits_longer(sequence_s: float) -> float:
        """The more an answer takes of each step, the less is left for prompts, and the sooner first tokens come."""
        try:
            return simulate(prompt_for(sequence_s)).first_token_s / seen.first_token_s - 1
        except ValueError:  # so much that nothing is left for a prompt
            return -1.0

    least = prompt_for(0.0)
    if waits_longer(0.0) <= 0:
        return least
    return prompt_for(_crossing(waits_longer, 0.0, alone.per_token_s))


def fit_prompt(times: Callable[[float], Measured], per_s: Callable[[Measured], float], seen_per_s: float) -> Measured:
    """`times` of the `prompt_s` with which `per_s` is what was seen. Raises ValueError when no prompt is short enough."""

    def faster(prompt_s: float) -> float:
        return per_s(times(prompt_s)) / seen_per_s - 1

    if (most := 1 + faster(_LEAST_S)) < 1:
        raise ValueError(
            f"{seen_per_s:.4g} requests a second were measured, and with prompts that take no time the simulation answers "
            f"{most * seen_per_s:.4g}: one client's seconds a token are too long for that. Measure both again, on a machine "
            "that does nothing else."
        )
    long = 1 / seen_per_s
    while faster(long) > 0:
        long *= 2
    return times(_crossing(faster, _LEAST_S, long))


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where it crosses 0 between those, from the side where it is not negative, or is as close as is asked for."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        value = falling(middle)
        if abs(value) <= _CLOSE:
            return middle
        low, high = (middle, high) if value > 0 else (low, middle)
    return low
