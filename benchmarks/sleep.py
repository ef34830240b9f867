"""What sleep gives back and what waking takes: `python -m benchmarks.sleep -o sleep.json -- --profile rtx3060`.

What follows `--` is given to `onecard serve`. Each round asks a question, sends the server to sleep, reads the GPU's memory
by NVML, and asks again: the seconds to that answer are what a user waits. Without a GPU the seconds alone are measured. With
two models (`-- --models a,b`) the rounds exchange them as well.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.served import LIMIT_S, key_header, serving
from serving.errors import OnecardError
from serving.machine import hardware
from serving.machine.orders import send_to_sleep

# A driver counts the memory of a process that has just ended as free a moment later.
_SETTLE_S = 2.0
_MESSAGES = [{"role": "user", "content": "Say one word."}]


def main(words: Sequence[str] | None = None) -> int:
    """Runs the rounds, prints a table, and writes the JSON. Exit code 1 when the server does not start or does not sleep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sleep", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, help="where the JSON goes")
    parser.add_argument("-n", "--rounds", type=int, default=5)
    parser.add_argument("serve", nargs="*", metavar="-- SERVE ARGUMENTS", help="for `onecard serve`")
    chosen = parser.parse_args(words)
    before = used_mib()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ONECARD_STATE_DIR"] = folder
        try:
            with serving(["--min-stay", "1s", *chosen.serve], Path(folder)) as served:
                rounds = [one_round(served.port) for _ in range(chosen.rounds)]
                swaps = exchanges(served.port, chosen.rounds)
        except (OnecardError, RuntimeError) as error:
            sys.stderr.write(f"{error}\n")
            return 1
    found = summary(before, served.ready_s, rounds, swaps) | {"command": ["onecard", "serve", *chosen.serve]}
    sys.stdout.write(as_table(found))
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def used_mib() -> int | None:
    """What everybody holds of the first GPU; None where there is none."""
    gpus = hardware.detect().gpus
    return gpus[0].used_mib if gpus else None


def answer_s(port: int, model: str | None = None) -> float:
    """Seconds to the answer to a short question. Raises RuntimeError when there is none."""
    body = {"max_tokens": 4, "messages": _MESSAGES} | ({"model": model} if model else {})
    began = time.monotonic()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    reply = httpx.post(url, json=body, timeout=LIMIT_S, trust_env=False, headers=key_header())
    if reply.status_code != 200:
        raise RuntimeError(f"{reply.status_code}: {reply.text[:500]}")
    return time.monotonic() - began


def one_round(port: int) -> dict[str, Any]:
    """An answer awake, sleep, and the answer that wakes it."""
    awake_s = answer_s(port)
    awake_mib = used_mib()
    began = time.monotonic()
    send_to_sleep(port)
    sleep_s = time.monotonic() - began
    if awake_mib is not None:
        time.sleep(_SETTLE_S)
    asleep_mib = used_mib()
    return {
        "awake_answer_s": round(awake_s, 3),
        "sleep_s": round(sleep_s, 2),
        "waking_answer_s": round(answer_s(port), 2),
        "awake_mib": awake_mib,
        "asleep_mib": asleep_mib,
    }


def exchanges(port: int, rounds: int) -> list[float]:
    """Seconds to an answer of a model that is not loaded, in turns; none where there is one model."""
    listed = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=10, trust_env=False, headers=key_header()).json()[
        "data"
    ]
    status = httpx.get(
        f"http://127.0.0.1:{port}/onecard/status", timeout=10, trust_env=False, headers=key_header()
    ).json()
    if not status["others"]:
        return []
    names = [listed[0]["id"], status["others"][0]]
    return [round(answer_s(port, names[(number + 1) % 2]), 2) for number in range(rounds)]


def summary(
    before_mib: int | None, ready_s: float, rounds: Sequence[dict[str, Any]], swaps: Sequence[float]
) -> dict[str, Any]:
    """The medians, and how much of what was taken has been given back."""
    gpus = hardware.detect().gpus

    def median(name: str) -> float | None:
        values = [each[name] for each in rounds if each[name] is not None]
        return statistics.median(values) if values else None

    awake, asleep = median("awake_mib"), median("asleep_mib")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": gpus[0].name if gpus else None,
        "first_start_s": round(ready_s, 1),
        "before_mib": before_mib,
        "awake_mib": awake,
        "asleep_mib": asleep,
        "given_back_mib": None if awake is None or asleep is None else awake - asleep,
        "left_mib": None if asleep is None or before_mib is None else asleep - before_mib,
        "sleep_s": median("sleep_s"),
        "waking_answer_s": median("waking_answer_s"),
        "awake_answer_s": median("awake_answer_s"),
        "exchange_s": statistics.median(swaps) if swaps else None,
        "rounds": list(rounds),
        "exchanges": list(swaps),
    }


def as_table(found: dict[str, Any]) -> str:
    lines = [
        ("first start", found["first_start_s"], "s"),
        ("on the card before", found["before_mib"], "MiB"),
        ("awake", found["awake_mib"], "MiB"),
        ("asleep", found["asleep_mib"], "MiB"),
        ("given back", found["given_back_mib"], "MiB"),
        ("left of ours", found["left_mib"], "MiB"),
        ("to fall asleep", found["sleep_s"], "s"),
        ("an answer that wakes it", found["waking_answer_s"], "s"),
        ("an answer awake", found["awake_answer_s"], "s"),
        ("an answer of the other model", found["exchange_s"], "s"),
    ]
    shown = [
        (name, f"{value:,.4g}" if unit == "s" else f"{value:,.0f}", unit)
        for name, value, unit in lines
        if value is not None
    ]
    return "".join(f"{name:<30}{value:>10} {unit}\n" for name, value, unit in shown)


if __name__ == "__main__":
    sys.exit(main())
