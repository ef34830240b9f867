"""What placement advice says. Data only; `advise.py` makes it, `describe.py` tells it."""

from pydantic import BaseModel, ConfigDict

from serving.fleet.simulate import Outcome


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Seconds(_Frozen):
    """`wanted` is the percentile that the file names."""

    mean: float
    p50: float
    p99: float
    wanted: float

    @classmethod
    def of(cls, values: list[float], percent: float) -> "Seconds":
        """Nearest rank; all 0 where there is no value."""
        ordered = sorted(values) or [0.0]

        def at(share: float) -> float:
            return round(ordered[max(0, -int(-len(ordered) * share // 100) - 1)], 4)

        return cls(mean=round(sum(ordered) / len(ordered), 4), p50=at(50), p99=at(99), wanted=at(percent))


class Expected(_Frozen):
    """Of a number of replicas at a rate of requests. `utilisation` is the busiest engine's."""

    asked_per_s: float
    requests_per_s: float
    refused_share: float
    utilisation: float
    wait_s: Seconds
    first_token_s: Seconds
    answer_s: Seconds

    @classmethod
    def of(cls, outcome: Outcome, asked_per_s: float, percent: float) -> "Expected":
        return cls(
            asked_per_s=round(asked_per_s, 4),
            requests_per_s=round(outcome.requests_per_s, 4),
            refused_share=round(outcome.refused_share, 4),
            utilisation=round(max(outcome.busy), 3),
            wait_s=Seconds.of(outcome.waits_s(), percent),
            first_token_s=Seconds.of(outcome.firsts_s(), percent),
            answer_s=Seconds.of(outcome.totals_s(), percent),
        )

    @classmethod
    def nothing(cls, asked_per_s: float) -> "Expected":
        """Of no replica at all."""
        none = Seconds.of([], 99)
        return cls(
            asked_per_s=round(asked_per_s, 4), requests_per_s=0, refused_share=1, utilisation=0, wait_s=none,
            first_token_s=none, answer_s=none,
        )  # fmt: skip


class Idle(_Frozen):
    """One request alone on a card: no number of cards makes it shorter."""

    first_token_s: float
    answer_s: float
    meets: bool


class Placement(_Frozen):
    """A kind of card, with what runs on it. `spare` of the cards are not needed."""

    profile: str
    model: str
    precision: str
    replicas: int
    spare: int
    at_once: int
    most_requests_per_s: float
    idle: Idle
    source: str
    given_up: tuple[str, ...] = ()


class Option(_Frozen):
    """Something that would do."""

    what: str


class Advice(_Frozen):
    """What `onecard plan --fleet --json` prints. `reachable`: some card is fast enough when nobody else asks."""

    meets: bool
    reachable: bool
    meets_with_one_machine_failed: bool
    placements: tuple[Placement, ...]
    asked_per_s: float
    at_average: Expected
    at_peak: Expected
    one_machine_failed: Expected
    lost_at_once: float
    would_do: tuple[Option, ...]
    assumptions: tuple[str, ...]
