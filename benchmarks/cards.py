"""What a second card is worth: `python -m benchmarks.cards -o cards.json --cards 1,2 -- --profile rtx3060`.

What follows `--` is given to `onecard serve`. For each number of cards a server is started, and clients ask it about pictures
that are all different, over connections that are kept alive. In turn, so that a drift of the machine meets all of them: as many
clients a card as it takes (`full`), one client (`alone`), a quarter of the many (`quarter`), and people who ask by chance, six
tenths as often as it could answer (`arrivals`). Then, where there is more than one card, the engine of the last is killed under
the full load. `python -m benchmarks.cards_check cards.json` compares the simulation with that.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cards_kill import check_not_lost, kill_one
from benchmarks.cards_load import Asked, Clients, poisson
from benchmarks.cards_table import as_table
from benchmarks.fleet_load import Generator
from benchmarks.load import Figures, medians
from benchmarks.results import new_run
from benchmarks.say import say
from benchmarks.served import key_header, serving, until
from benchmarks.workload import pixels
from serving.errors import OnecardError

ROUTE = "/v1/chat/completions"
# Of the answers a second under full load, how many are asked for by chance.
_ARRIVE = 0.6
_TOLD_OF_A_LOG = 3000


def main(words: Sequence[str] | None = None) -> int:
    """Measures each number of cards, prints the tables, and writes the JSON after each round. Exit code 1 when a server does
    not start, or does not come back; what was measured before is kept."""
    settings = _parser().parse_args(words)
    told: dict[str, Any] = {}
    for place, cards in enumerate(settings.cards):
        _say(f"onecard serve --cards {cards} …")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["ONECARD_STATE_DIR"] = name
            try:
                with serving(["--cards", str(cards), *settings.serve], folder) as served:
                    _say(f"The first card is ready after {served.ready_s:.0f} s.")
                    for found, plan in measure(served.port, served.pid, cards, settings, folder):
                        told = told or _about(found["model"], plan, settings, words)
                        told["cores_shared"] |= plan["gpu"]["name"] == "CPU" and cards > 1
                        told["cards"][place:] = [found]
                        if settings.out:
                            settings.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            except (OnecardError, RuntimeError, ValueError, OSError, httpx.HTTPError, psutil.Error) as error:
                sys.stderr.write(f"{_ends_of_logs(folder)}{error}\n")
                return 1
    say(as_table(told))
    return 1 if any("gave_up" in each for each in told["cards"]) else 0


def measure(
    port: int, supervisor: int, cards: int, settings: argparse.Namespace, folder: Path
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What a server with so many cards comes to, told again after each round and after the kill, and its plan; `supervisor` is
    its process id. Raises RuntimeError when they are not ready in time or the clients cannot ask, and ValueError when nothing
    is answered."""
    began = time.monotonic()
    status = until(port, f"{cards} cards ready", lambda found: _ready(found, cards), settings.limit)
    _say(f"{cards} ready; the last of them {time.monotonic() - began:.0f} s after the first.")
    model, plan, tokens = status["models"][0], status["plan"], settings.answer_tokens
    count = cards * (settings.clients or plan["capacity"]["max_num_seqs"])
    url = f"http://127.0.0.1:{port}"
    # There are fewer processes of clients than clients: nobody else has that picture.
    prompt_tokens = asyncio.run(_prompt_tokens(Generator([url], model, settings.picture, first=count)))
    found: dict[str, Any] = {"cards": cards, "model": model, "prompt_tokens": prompt_tokens, "by_card": [0] * cards}
    found["loads"] = _loads(count, settings.seconds / settings.rounds)
    with contextlib.closing(Clients(url, model, settings.picture, count, folder)) as clients:
        clients.ask(tokens, seconds=settings.seconds / 3)
        _say("Warm.")
        for number in range(settings.rounds):
            _one_round(port, clients, found, tokens, number)
            yield found, plan
        if cards > 1:
            pause_s, limit_s = settings.seconds / 3, settings.limit
            try:
                found["killed"] = kill_one(port, supervisor, cards - 1, clients, tokens, pause_s, limit_s, folder)
            except (RuntimeError, psutil.Error) as error:  # what was measured before is kept
                found["gave_up"] = str(error)
            yield found, plan


def _one_round(port: int, clients: Clients, found: dict[str, Any], tokens: int, number: int) -> None:
    """Every load once. The rate of the arrivals follows from the first full load."""
    loads = found["loads"]
    for name, load in loads.items():
        before = answered_by_card(port)
        told = _ask(clients, load, tokens, number).load(tokens, found["prompt_tokens"]).figures()
        if name == "full":
            after = answered_by_card(port)
            found["by_card"] = [had + after[card] - before[card] for card, had in enumerate(found["by_card"])]
            loads["arrivals"].setdefault("per_s", round(_ARRIVE * told["requests_per_s"], 3))
        load["rounds"].append(told)
        load["figures"] = _together(load["rounds"])
        _say(f"Round {number + 1}, {name}: {told['requests_per_s']:g} requests/s, each {told['total_ms']:.0f} ms.")


def _loads(count: int, seconds: float) -> dict[str, dict[str, Any]]:
    """What is asked in a round, for so many seconds; the others than the first are short ones."""
    return {
        "full": {"clients": count, "seconds": seconds, "rounds": []},
        "alone": {"clients": 1, "seconds": 0.4 * seconds, "rounds": []},
        "quarter": {"clients": max(2, count // 4), "seconds": 0.4 * seconds, "rounds": []},
        "arrivals": {"seconds": 0.5 * seconds, "rounds": []},
    }


def _ask(clients: Clients, load: dict[str, Any], tokens: int, number: int) -> Asked:
    if "clients" in load:
        return clients.ask(tokens, clients=load["clients"], seconds=load["seconds"])
    return clients.ask_at(tokens, poisson(load["per_s"], load["seconds"], number))


def _together(rounds: Sequence[Figures]) -> Figures:
    """Medians; requests that failed are all counted."""
    return medians(rounds) | {name: sum(each[name] for each in rounds) for name in ("requests", "failed")}


def answered_by_card(port: int) -> Counter[int]:
    """Answers to chat requests so far, by card. Raises RuntimeError when the server does not tell its metrics."""
    reply = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60, trust_env=False, headers=key_header())
    if reply.status_code != 200:
        raise RuntimeError(f"/metrics: {reply.status_code}: {reply.text[:300]}")
    return count_by_card(reply.text)


def count_by_card(exposition: str) -> Counter[int]:
    """Of `/metrics`: a server of one card has no label `card`, and is card 0."""
    found: Counter[int] = Counter()
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples if family.name == "onecard_requests" else ():
            if name == "onecard_requests_total" and (labels["route"], labels["outcome"]) == (
                ROUTE,
                "answered",
            ):
                found[int(labels.get("card", 0))] += int(value)
    return found


async def _prompt_tokens(generator: Generator) -> int:
    try:
        return await generator.prompt_tokens()
    finally:
        await generator.close()


def _ready(status: dict[str, Any], cards: int) -> bool:
    for each in status["cards"]:
        check_not_lost(each)
    states = [each["state"] for each in status["cards"]] or [status["state"]]
    return states == ["ready"] * cards


def _say(what: str) -> None:
    """With the time of day: a run on a machine that is lent has so many minutes, and its log shows where they went."""
    say(f"{time.strftime('%H:%M:%S')} {what}")


def _ends_of_logs(folder: Path) -> str:
    """The folder goes when the run ends, and with it what the servers said."""
    files = sorted(folder.rglob("*.log"))
    return "".join(f"{each.name}:\n{each.read_text(errors='replace')[-_TOLD_OF_A_LOG:]}\n" for each in files)


def _about(
    model: str, plan: dict[str, Any], settings: argparse.Namespace, words: Sequence[str] | None
) -> dict[str, Any]:
    run = new_run(model, {}).model_dump(include={"date", "versions", "machine", "model"})
    return run | {
        "command": shlex.join(["python", "-m", "benchmarks.cards", *(sys.argv[1:] if words is None else words)]),
        "plan": plan,
        "seconds": settings.seconds,
        "answer_tokens": settings.answer_tokens,
        "picture": settings.picture,
        "cores_shared": False,
        "cards": [],
    }


def _parser() -> argparse.ArgumentParser:
    def counts(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument(
        "--cards", type=counts, default=[1, 2], metavar="N,N", help="the first is what others are compared to"
    )
    parser.add_argument(
        "--clients", type=int, help="for each card; as many as the plan runs at once where it is not said"
    )
    parser.add_argument(
        "--seconds", type=float, default=18.0, help="of full load in all rounds; a third of it first, to warm up"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--limit", type=float, default=240.0, help="seconds for further cards, and for one that is killed"
    )
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--picture", type=pixels, default=(1024, 768), metavar="WxH")
    parser.add_argument("serve", nargs="*", metavar="-- SERVE ARGUMENTS", help="for `onecard serve`")
    return parser


if __name__ == "__main__":
    sys.exit(main())
