"""The shape of a question: its cases, and what of their figures is told while it runs. One module asks each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.load import Figures
from benchmarks.target import Scope, Target


@dataclass(frozen=True)
class Case:
    """`measure` is one repetition. `repetitions` is None for as many as the run makes."""

    name: str
    measure: Callable[[Target], Figures]
    repetitions: int | None = None


@dataclass(frozen=True)
class Question:
    """`told` names the figures of the printed table; all of them are in the JSON."""

    name: str
    title: str
    cases: Callable[[Scope], Sequence[Case]]
    told: tuple[str, ...]
