"""`onecard plan --fleet FILE`."""

from pathlib import Path

from serving.fleet.advise import advise
from serving.fleet.demand import read_fleet
from serving.fleet.describe import describe


def plan_fleet(path: Path, *, as_json: bool) -> tuple[str, bool]:
    """What is to be printed, and whether the cards meet what is wanted. Raises ConfigError and UsageError for the file."""
    advice = advise(read_fleet(path))
    return advice.model_dump_json(indent=2) if as_json else describe(advice), advice.meets
