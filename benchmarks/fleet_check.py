"""Is the simulation behind `onecard plan --fleet` right? `python -m benchmarks.fleet_check URL [URL…]` asks running servers.

For each case the service times are measured with one client before it and after it, and what several clients or a rate of
arrivals see is predicted with the mean of both: a drift of the machine meets both sides. What is told is the median over the
rounds.

    step(1)    from one answer at a time: its seconds a token after the first
    step(n)    from one request for n answers
    prompt     so that the simulation answers requests of one token, four at a time, as fast as the server did
    delay      what is left of one request's first token: it passes beside the engine's work
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.cards_table import WITHIN
from benchmarks.fleet_load import FailedError, Generator, Timed
from benchmarks.load import percentile
from benchmarks.results import RESULTS, new_run
from benchmarks.workload import pixels
from serving.fleet.calibrate import Alone, fit_prompt
from serving.fleet.cards import Measured, Service, from_measured
from serving.fleet.simulate import Outcome, Request, open_arrivals, simulate_closed, simulate_open
from serving.planning.plan import Plan

# Requests of one token: so many at a time, so often.
_TOGETHER, _EACH = 4, 4
_TIMES = ("delay_s", "prompt_s", "step_s", "sequence_s")
# What is compared.
_COMPARED = ("requests_per_s", "answer_p50_s", "answer_p90_s", "first_token_p50_s")


async def measure_service(
    generator: Generator, tokens: int, prompt_tokens: int, answers: int, serve: Callable[[Measured], list[Service]]
) -> Measured:
    """The service times of each of equal servers, which `serve` makes of them, with one client and with a few. Medians, so
    that one disturbed request does not count. Raises ValueError where no times give what was measured."""
    alone = await generator.closed(1, 8, tokens)
    several = await generator.closed(1, 3, tokens, answers)
    prompts = await generator.closed(_TOGETHER, _EACH, 1)
    one, many = _per_token(alone, tokens), _per_token(several, tokens)
    seen = Alone(statistics.median(timed.first - timed.at for timed in alone), one)
    sequence_s = max(0.0, (many - one) / (answers - 1))

    def prompts_per_s(times: Measured) -> float:
        return figures(simulate_closed(serve(times), _TOGETHER, _EACH, lambda: 1).requests)["requests_per_s"]

    return fit_prompt(
        lambda prompt_s: seen.times(prompt_s, sequence_s, prompt_tokens),
        prompts_per_s,
        figures(prompts)["requests_per_s"],
    )


def _per_token(answers: Sequence[Timed], tokens: int) -> float:
    return statistics.median((timed.end - timed.first) / (tokens - 1) for timed in answers)


def figures(answers: Sequence[Timed | Request]) -> dict[str, float]:
    """What is compared, of requests that were measured or simulated."""
    totals = [each.end - each.at for each in answers]
    return {
        "requests_per_s": len(answers) / (max(each.end for each in answers) - min(each.at for each in answers)),
        "answer_p50_s": percentile(totals, 50),
        "answer_p90_s": percentile(totals, 90),
        "first_token_p50_s": statistics.median(each.first - each.at for each in answers),
    }


async def one_round(
    generator: Generator, servers: int, plan: Plan, settings: argparse.Namespace, prompt_tokens: int, number: int
) -> tuple[list[Measured], dict[str, dict[str, dict[str, float]]]]:
    """The service times before each case and after the last; and for each what was predicted with them, and what measured."""
    tokens = settings.answer_tokens
    cases: dict[str, dict[str, dict[str, float]]] = {}

    def serve(measured: Measured) -> list[Service]:
        return [from_measured(plan, measured, tokens, "this run")] * servers

    async def service() -> Measured:
        return await measure_service(generator, tokens, prompt_tokens, settings.answers, serve)

    async def compare(case: str, measured: Sequence[Timed], simulate: Callable[[list[Service]], Outcome]) -> None:
        found.append(await service())
        simulated = simulate(serve(mean(found[-2:])))
        cases[case] = {"predicted": figures(simulated.requests), "measured": figures(measured)}

    found = [await service()]
    for clients in settings.clients:
        each = max(3, settings.requests // clients)
        closed = partial(simulate_closed, clients=clients, each=each, length=lambda: tokens, seed=number)
        await compare(f"{clients} clients", await generator.closed(clients, each, tokens), closed)
    for share in settings.shares:
        arrivals = _arrivals(serve(found[-1])[0], servers, tokens, share, settings.requests, number)
        opened = partial(simulate_open, arrivals=(Request(at, tokens) for at in arrivals), seed=number)
        await compare(f"arrivals at {share:.0%} of what it can", await generator.open(arrivals, tokens), opened)
    return found, cases


def mean(found: Sequence[Measured]) -> Measured:
    """Of each figure."""
    return Measured(**{name: statistics.fmean(getattr(each, name) for each in found) for name in _TIMES},
                    prompt_tokens=found[0].prompt_tokens)  # fmt: skip


def _arrivals(service: Service, servers: int, tokens: int, share: float, count: int, seed: int) -> list[float]:
    """The same moments for the simulation and for the servers."""
    per_s = share * servers * service.most_per_s(tokens)
    coming = open_arrivals(per_s, 10 * count / per_s, lambda: tokens, random.Random(seed))
    return [request.at for request, _ in zip(coming, range(count), strict=False)]


def summary(rounds: Sequence[dict[str, dict[str, dict[str, float]]]]) -> dict[str, dict[str, Any]]:
    """For each case the medians over the rounds, and by what share the prediction is off."""
    told: dict[str, dict[str, Any]] = {}
    for case in rounds[0]:
        sides = {
            side: {name: round(statistics.median(each[case][side][name] for each in rounds), 4) for name in _COMPARED}
            for side in ("predicted", "measured")
        }
        # Each round's own ratio, whose median a drift between rounds does not touch.
        off = {
            name: round(
                statistics.median(each[case]["predicted"][name] / each[case]["measured"][name] for each in rounds) - 1,
                3,
            )
            for name in _COMPARED
        }
        told[case] = sides | {"off": off}
    return told


def table(cases: dict[str, dict[str, Any]]) -> str:
    """Predicted / measured, and how far apart."""
    lines = ["| case | " + " | ".join(_COMPARED) + " |", "|---" * (1 + len(_COMPARED)) + "|"]
    for case, each in cases.items():
        cells = (f"{each['predicted'][n]:.3g} / {each['measured'][n]:.3g} ({each['off'][n]:+.0%})" for n in _COMPARED)
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


async def _run(settings: argparse.Namespace) -> int:
    status = httpx.get(f"{settings.urls[0]}/onecard/status", timeout=10, trust_env=False).raise_for_status().json()
    plan = Plan.model_validate(status["plan"])
    servers = settings.servers or len(settings.urls)
    generator = Generator(settings.urls, status["models"][0], settings.picture)
    await generator.closed(2, 3, settings.answer_tokens)  # warm
    prompt_tokens = await generator.prompt_tokens()
    found: list[Measured] = []
    rounds, loads = [], []
    for number in range(settings.rounds):
        services, cases = await one_round(generator, servers, plan, settings, prompt_tokens, number)
        found += services
        rounds.append(cases)
        loads.append(round(os.getloadavg()[0], 2))
        sys.stdout.write(f"round {number + 1}, load {loads[-1]}: {services[0].model_dump_json()}\n")
        sys.stdout.flush()
    cases = summary(rounds)
    run = new_run(status["models"][0], {}).model_dump(include={"date", "versions", "machine", "model"})
    medians = {name: statistics.median(getattr(each, name) for each in found) for name in Measured.model_fields}
    result = run | {
        "command": "python -m benchmarks.fleet_check " + " ".join(sys.argv[1:]),
        "servers": servers,
        "answer_tokens": settings.answer_tokens,
        "picture": settings.picture,
        "load_average": loads,
        "service": medians,
        "within": WITHIN,
        "cases": cases,
        "rounds": rounds,
    }
    settings.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    worst = max(abs(each["off"][name]) for each in cases.values() for name in ("requests_per_s", "answer_p50_s"))
    sys.stdout.write(
        f"{table(cases)}\nWorst of throughput and median answer: {worst:.0%} off. Written to {settings.out}.\n"
    )
    return 0 if worst <= WITHIN else 1


def main() -> int:
    """Exit 0 when throughput and median answer were predicted within 15% in every case."""

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL", help="servers with equal cards, as http://127.0.0.1:8000")
    parser.add_argument("--servers", type=int, help="replicas behind one URL")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.4, 0.7], help="arrivals, of what it can answer")
    parser.add_argument("--requests", type=int, default=40, help="of each case in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--answers", type=int, default=4, help="asked for at once, for the cost of a batch")
    parser.add_argument("--picture", type=pixels, default=(320, 240), metavar="WxH")
    parser.add_argument("--out", type=Path, default=RESULTS / "fleet.json")
    try:
        return asyncio.run(_run(parser.parse_args()))
    except (FailedError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
