"""Does the simulation behind `onecard plan --fleet` say what was measured of several cards?
`python -m benchmarks.cards_check cards.json` compares.

From the first number of cards in a result of `cards` it takes two loads and nothing else: what one client saw, and what all of
them did (`serving/fleet/calibrate.py`). With these times it predicts the loads between, and every load of more cards, none of
which it has seen. The predictions go into the same file, from which cards_table.py and the document have them; so do the times,
so that `fleet.yaml` can name the file as `measured:`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cards_load import Asked, poisson
from benchmarks.cards_table import WITHIN, loads_table, worst
from benchmarks.fleet_load import Timed
from benchmarks.load import Figures, medians
from benchmarks.say import say
from serving.fleet.calibrate import Alone, Seen, fit
from serving.fleet.cards import Measured, from_measured
from serving.fleet.simulate import Request, simulate_open, simulate_until
from serving.planning.plan import Plan

_TOLD = ("requests_per_s", "total_ms", "first_token_ms")


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0 when every load that was predicted is within 15%, in answers a second and in the median answer."""
    title = (__doc__ or "").partition("\n`")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards_check", description=title)
    parser.add_argument("file", type=Path, help="what `python -m benchmarks.cards -o` wrote")
    file = parser.parse_args(words).file
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        predict_all(told)
    except (OSError, LookupError, ValueError) as error:
        sys.stderr.write(f"{file} cannot be checked: {type(error).__name__}: {error}\n")
        return 1
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    say(loads_table(told))
    return 0 if worst(told) <= WITHIN else 1


def predict_all(told: dict[str, Any]) -> None:
    """Puts the times of a card into the result, and beside each load what the simulation makes of it. Raises ValueError where
    no times give what was measured, and LookupError for a result without these loads."""
    plan, tokens, first = Plan.model_validate(told["plan"]), told["answer_tokens"], told["cards"][0]
    alone, full = first["loads"]["alone"], first["loads"]["full"]
    times = calibrate(plan, tokens, first["prompt_tokens"], first["cards"], alone, full)
    for each in told["cards"]:
        for load in each["loads"].values():
            load["predicted"] = predict(plan, tokens, times, each["cards"], load)
            load["calibrated"] = load in (alone, full)
    told["service"] = times.model_dump()


def calibrate(
    plan: Plan, tokens: int, prompt_tokens: int, cards: int, alone: dict[str, Any], full: dict[str, Any]
) -> Measured:
    """From what one client saw and what all did, of so many cards. Raises ValueError."""
    if tokens < 2:
        raise ValueError("answers of one token tell nothing of a step: measure with --answer-tokens 2 or more")

    def simulate(times: Measured) -> Seen:
        return _seen(predict(plan, tokens, times, cards, full))

    first_token_s, total_s = (alone["figures"][name] / 1000 for name in ("first_token_ms", "total_ms"))
    one = Alone(first_token_s, (total_s - first_token_s) / (tokens - 1))
    return fit(one, _seen(full["figures"]), prompt_tokens, simulate)


def predict(plan: Plan, tokens: int, times: Measured, cards: int, load: dict[str, Any]) -> Figures:
    """What the clients of that load should see, as they tell it: the medians over as many rounds."""
    services = [from_measured(plan, times, tokens, "this file")] * cards
    rounds = []
    for number in range(len(load["rounds"])):
        if "clients" in load:
            outcome = simulate_until(services, load["clients"], load["seconds"], lambda: tokens, seed=number)
        else:
            moments = poisson(load["per_s"], load["seconds"], number)
            outcome = simulate_open(services, (Request(at, tokens) for at in moments), seed=number)
        requests = [Timed(each.at, each.first, each.end, failed="refused" * each.refused) for each in outcome.requests]
        figures = Asked(requests).load(tokens, times.prompt_tokens).figures()
        rounds.append({name: figures[name] for name in _TOLD})
    return medians(rounds)


def _seen(figures: Figures) -> Seen:
    return Seen(figures["requests_per_s"], figures["first_token_ms"] / 1000)


if __name__ == "__main__":
    sys.exit(main())
