"""What a second card is worth: `python -m benchmarks.cards -o cards.json --cards 1,2 -- --profile rtx3060`.

What follows `--` is given to `onecard serve`. For each number of cards a server is started, and so many clients a card ask it
about pictures that are all different, over connections that are kept alive: throughput, latency, and what each card answered.
Then, where there is more than one, the engine of the last card is killed under the same load: what is lost, what the others
answer meanwhile, and when it is back.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cards_load import Clients
from benchmarks.cards_table import as_table
from benchmarks.fleet_load import Generator, Timed
from benchmarks.results import new_run
from benchmarks.say import say
from benchmarks.served import key_header, serving, until
from benchmarks.workload import pixels
from serving import launch
from serving.errors import OnecardError

ROUTE = "/v1/chat/completions"


def main(words: Sequence[str] | None = None) -> int:
    """Measures each number of cards, prints the tables, and writes the JSON after each. Exit code 1 when a server does not
    start, or does not come back."""
    settings = _parser().parse_args(words)
    told: dict[str, Any] = {}
    for cards in settings.cards:
        say(f"onecard serve --cards {cards} …")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ONECARD_STATE_DIR"] = folder
            try:
                with serving(["--cards", str(cards), *settings.serve], Path(folder)) as served:
                    found = measure(served.port, served.pid, cards, settings, Path(folder))
            except (OnecardError, RuntimeError, ValueError) as error:
                sys.stderr.write(f"{error}\n")
                return 1
        told = told or _about(found["model"], settings, words)
        told["cores_shared"] |= found.pop("on_cpu") and cards > 1
        told["cards"].append(found)
        if settings.out:
            settings.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    say(as_table(told))
    return 1 if any("gave_up" in each for each in told["cards"]) else 0


def measure(port: int, supervisor: int, cards: int, settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What a server with so many cards came to; `supervisor` is its process id. Raises RuntimeError when they are not ready
    in time or the clients cannot ask, and ValueError when nothing is answered."""
    began = time.monotonic()
    status = until(port, f"{cards} cards ready", lambda found: _ready(found, cards))
    say(f"{cards} ready; the last of them {time.monotonic() - began:.0f} s after the first.")
    model, tokens = status["models"][0], settings.answer_tokens
    count = cards * (settings.clients or status["plan"]["capacity"]["max_num_seqs"])
    url = f"http://127.0.0.1:{port}"
    # There are fewer processes of clients than clients: nobody else has that picture.
    prompt_tokens = asyncio.run(_prompt_tokens(Generator([url], model, settings.picture, first=count)))
    with contextlib.closing(Clients(url, model, settings.picture, count, folder)) as clients:
        clients.ask(tokens, seconds=settings.seconds / 3, stop=folder / "never")
        before = answered_by_card(port)
        asked = clients.ask(tokens, seconds=settings.seconds, stop=folder / "never")
        after = answered_by_card(port)
        found = {
            "cards": cards,
            "model": model,
            "on_cpu": status["plan"]["gpu"]["name"] == "CPU",
            "clients": count,
            "figures": asked.load(tokens, prompt_tokens).figures(),
            "by_card": [after[card] - before[card] for card in range(cards)],
        }
        say(f"{found['figures']['requests_per_s']:g} requests/s, by card {found['by_card']}")
        if cards > 1:
            try:
                found["killed"] = kill_one(port, supervisor, cards - 1, clients, settings, folder)
            except RuntimeError as error:  # what was measured before is kept
                found["gave_up"] = str(error)
    return found


def kill_one(
    port: int, supervisor: int, card: int, clients: Clients, settings: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """The engine of that card is killed in the middle of the load, which goes on until that card answers again."""
    stop = folder / "stop"
    with ThreadPoolExecutor(1) as threads:
        loaded = threads.submit(clients.ask, settings.answer_tokens, stop=stop)
        try:
            until(port, "requests on every card", lambda found: all(each["requests"] for each in found["cards"]))
            time.sleep(settings.seconds / 3)
            engine = engine_of(supervisor, card)
            had = until(port, "the status", lambda _: True)["cards"][card]
            engine.kill()
            killed = time.perf_counter()
            say(f"{engine.pid}, the engine of card {card}, was killed with {had['requests']} requests on that card …")
            until(port, f"card {card} ready again", lambda found: _returned(found["cards"][card], had["restarts"]))
            returned = time.perf_counter()
            say(f"… and is ready again after {returned - killed:.0f} s.")
            until(port, f"requests on card {card} again", lambda found: found["cards"][card]["requests"] > 0)
            time.sleep(settings.seconds / 3)
        finally:
            stop.touch()
        asked = loaded.result()
    return {"card": card, "running_there": had["requests"]} | aftermath(asked.requests, killed, returned)


def aftermath(requests: Sequence[Timed], killed: float, returned: float) -> dict[str, Any]:
    """What the clients saw of a kill. A request that failed had been sent `before` it or `after` it; only one that was sent
    before can have been running there."""
    failed = [each for each in requests if each.failed]
    meanwhile = sum(not each.failed and killed < each.end <= returned for each in requests)
    return {
        "requests": len(requests),
        "failed_sent_before": sum(each.at <= killed for each in failed),
        "failed_sent_after": sum(each.at > killed for each in failed),
        "failures": dict(Counter(each.failed.partition(":")[0] for each in failed)),
        "examples": sorted({each.failed for each in failed})[:3],
        "last_failure_s": round(max((each.end - killed for each in failed), default=0.0), 2),
        "ready_again_s": round(returned - killed, 1),
        "answered_meanwhile": meanwhile,
        "meanwhile_per_s": round(meanwhile / (returned - killed), 3),
    }


def engine_of(supervisor: int, card: int) -> psutil.Process:
    """The engine's process of that card: below the server whose launch is that card's. Where the engine has no process of its
    own, the server. Raises RuntimeError when there is none."""
    for server in psutil.Process(supervisor).children():
        with contextlib.suppress(psutil.Error, OSError, KeyError):
            of = json.loads(Path(server.environ()[launch.ENVIRONMENT_KEY]).read_text(encoding="utf-8"))
            if of["card"] == card:
                below = server.children(recursive=True)
                return next((each for each in below if "EngineCore" in " ".join(each.cmdline())), server)
    raise RuntimeError(f"no process serves card {card}")


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
    states = [each["state"] for each in status["cards"]] or [status["state"]]
    return states == ["ready"] * cards


def _returned(card: dict[str, Any], restarts: int) -> bool:
    if card["state"] == "lost":
        raise RuntimeError(f"card {card['card']} was given up: {card['why']}")
    return bool(card["restarts"] > restarts and card["state"] == "ready")


def _about(model: str, settings: argparse.Namespace, words: Sequence[str] | None) -> dict[str, Any]:
    run = new_run(model, {}).model_dump(include={"date", "versions", "machine", "model"})
    return run | {
        "command": shlex.join(["python", "-m", "benchmarks.cards", *(sys.argv[1:] if words is None else words)]),
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
    parser.add_argument("--seconds", type=float, default=30.0, help="of load; a third of it first, to warm up")
    parser.add_argument("--answer-tokens", type=int, default=128)
    parser.add_argument("--picture", type=pixels, default=(1024, 768), metavar="WxH")
    parser.add_argument("serve", nargs="*", metavar="-- SERVE ARGUMENTS", help="for `onecard serve`")
    return parser


if __name__ == "__main__":
    sys.exit(main())
