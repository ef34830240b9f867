"""`fleet.yaml`: the cards that there are, what is expected of them, the latency that is wanted. Checked like the profiles."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from serving.errors import ConfigError, UsageError
from serving.fleet.cards import Measured
from serving.planning.profile import load_models, load_profile, read_config


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cards(_Strict):
    """Equal cards in equal machines."""

    profile: str = Field(description="the card: a name that `onecard profiles` lists, or a path")
    count: int = Field(ge=1, description="how many of these cards there are")
    per_machine: int = Field(default=1, ge=1, description="so many of them fail together")
    measured: Path | None = Field(
        default=None,
        description="a JSON of benchmarks.fleet_check or cards_check made on this card, in place of the derived times",
    )


class Demand(_Strict):
    """What is asked, on average over the busiest hours; `peak_factor` is how much more than that it may be for minutes."""

    pictures_per_hour: float = Field(gt=0)
    peak_factor: float = Field(default=2.0, ge=1)
    pictures_per_request: int = Field(default=1, ge=1)
    picture: tuple[PositiveInt, PositiveInt] = Field(default=(1024, 768), description="width and height in pixels")
    question_tokens: int = Field(default=32, ge=1)
    answer_tokens: int = Field(default=128, ge=1, description="mean length of an answer")
    answer_spread: float = Field(
        default=0.5, ge=0, le=2, description="standard deviation of it, as a share of the mean"
    )


class Wanted(_Strict):
    """Seconds in which so many percent of the requests must be answered."""

    percent: float = Field(default=99, gt=0, lt=100)
    first_token_s: float | None = Field(default=None, gt=0)
    answer_s: float | None = Field(default=None, gt=0)


class Fleet(_Strict):
    """One `fleet.yaml`. `models` are names or families that `onecard profiles` lists, the one that is liked best first; of a
    family the most exact precision that does the work is taken."""

    cards: tuple[Cards, ...] = Field(min_length=1)
    demand: Demand
    wanted: Wanted = Wanted(answer_s=10)
    models: tuple[str, ...] = Field(default=("qwen3-vl-2b",), min_length=1)
    survive_one_machine: bool = Field(default=False, description="the wanted latency also with one machine failed")
    seed: int = 0


def read_fleet(path: Path) -> Fleet:
    """The file, with every card and model known. Raises ConfigError naming what is not."""
    fleet = read_config(path, Fleet)
    for cards in fleet.cards:
        _, profile = load_profile(cards.profile)
        if profile.gpu is None and cards.measured is None:
            raise ConfigError(
                f"{path}: the profile `{cards.profile}` has no GPU, so no times can be derived for it. Measure it with "
                "`python -m benchmarks.fleet_check URL`, and name the result by `measured:`."
            )
    known = load_models()
    families = {model.family for model in known.values() if model.family}
    for name in fleet.models:
        if name not in known and name not in families:
            raise ConfigError(
                f"{path}: there is no model or family {name!r}. Families: {', '.join(sorted(families))}; models: "
                f"{', '.join(sorted(known))}."
            )
    if fleet.wanted.first_token_s is None and fleet.wanted.answer_s is None:
        raise UsageError(f"{path}: `wanted` names neither first_token_s nor answer_s, so any fleet would do.")
    return fleet


def read_measured(path: Path) -> Measured:
    """The service times in a result of benchmarks.fleet_check or cards_check. Raises ConfigError."""
    try:
        return MeasuredFile.model_validate_json(path.read_text(encoding="utf-8")).service
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no result of benchmarks.fleet_check or cards_check: {error}") from error


class MeasuredFile(BaseModel):
    """What is read of it."""

    service: Measured
