"""The part of `cards` in which one card's engine is killed under load: what is lost, what the others answer meanwhile, and when
it is back."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cards_load import Clients
from benchmarks.fleet_load import Timed
from benchmarks.say import say
from benchmarks.served import until
from serving.ipc import launch


def kill_one(
    port: int, supervisor: int, card: int, clients: Clients, tokens: int, pause_s: float, limit_s: float, folder: Path
) -> dict[str, Any]:
    """The engine of that card is killed in the middle of the load, which goes on until that card answers again, and
    `pause_s` before and after that. Raises RuntimeError when it is not back within `limit_s`."""
    stop = folder / "stop"
    with ThreadPoolExecutor(1) as threads:
        loaded = threads.submit(clients.ask, tokens, stop=stop)
        try:
            until(
                port, "requests on every card", lambda found: all(each["requests"] for each in found["cards"]), limit_s
            )
            time.sleep(pause_s)
            engine = engine_of(supervisor, card)
            had = until(port, "the status", lambda _: True)["cards"][card]
            engine.kill()
            killed = time.perf_counter()
            say(f"{engine.pid}, the engine of card {card}, was killed with {had['requests']} requests on that card …")
            until(port, f"card {card} ready again", lambda found: _back(found["cards"][card], had["restarts"]), limit_s)
            returned = time.perf_counter()
            say(f"… and is ready again after {returned - killed:.0f} s.")
            until(port, f"requests on card {card} again", lambda found: found["cards"][card]["requests"] > 0, limit_s)
            time.sleep(pause_s)
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


def check_not_lost(card: dict[str, Any]) -> None:
    """Raises RuntimeError for a card that will not come any more."""
    if card["state"] == "lost":
        raise RuntimeError(f"card {card['card']} was given up: {card['why']}")


def _back(card: dict[str, Any], restarts: int) -> bool:
    check_not_lost(card)
    return bool(card["restarts"] > restarts and card["state"] == "ready")
