"""The READMEs' first table: onecard beside vLLM's defaults in a few figures, each from the file that the tables further down
are made of. A row whose figures were not measured is left out.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import speed
from benchmarks.markdown import NOT_MEASURED, Language, Table, listed
from benchmarks.questions import burst, start
from benchmarks.results import Run
from benchmarks.survival_table import counted

CARD, SIZE = "rtx3060", "12 GB"
PAIR = ("onecard", "vllm")


def measured(language: Language, results: Path, table: Table) -> str:
    """Where it was measured, then a row a figure."""
    kept = speed.runs(results)
    runs = [run for run in kept if set(PAIR) <= run.contenders.keys()]
    rows = [*_full_card(language, results), *(row for run in runs[:1] for row in _asked(run, language))]
    if not rows:
        return NOT_MEASURED[language]
    rows += _started(kept, language)
    head = {
        "en": ("", "onecard", "vLLM's defaults"),
        "zh": ("", "onecard", "vLLM 默认参数"),
    }[language]
    where = [listed(language, run.machine.get("gpu", ""), f"vLLM {run.versions['vllm']}", run.date) for run in runs[:1]]
    said = {"en": "Measured on an {}:", "zh": "实测，{}："}[language]
    return "\n\n".join([*(said.format(each) for each in where), table(head, iter(rows))])


def _full_card(language: Language, results: Path) -> Iterator[Sequence[str]]:
    """Who lives where another process leaves as much memory as that card has beside a desktop."""
    for file in sorted(results.glob("survival-*.json")):
        points = json.loads(file.read_text(encoding="utf-8"))["points"]
        found = {point["contender"]: point for point in points if point["card"] == CARD}
        if set(PAIR) <= found.keys():
            name = {
                "en": f"{SIZE} beside a desktop, full load for two minutes",
                "zh": f"{SIZE} 显存，桌面占去一部分，满载两分钟",
            }[language]
            yield name, *(_lived(found[contender], language) for contender in PAIR)


def _lived(point: dict[str, Any], language: Language) -> str:
    good, lost = counted(point)
    if "ready_s" not in point:
        return {"en": "does not start", "zh": "启动失败"}[language]
    if not point["lives"]:
        return {"en": f"dies after {good:,} answers", "zh": f"回答 {good:,} 个之后崩溃"}[language]
    return {"en": f"{good:,} answered, {lost or 'none'} lost", "zh": f"回答 {good:,} 个，丢失 {lost} 个"}[language]


def _asked(run: Run, language: Language) -> Iterator[Sequence[str]]:
    clients = max(run.settings.get("clients", (1,)))
    cases = (
        (("latency", "1 client"), "first_token_ms", "{:.0f} ms", ("first token, one client", "首 token，一个客户端")),
        (("latency", "1 client"), "total_ms", "{:.0f} ms", ("whole answer, one client", "完整回答，一个客户端")),
        (
            ("throughput", f"{clients} clients"),
            "images_per_s",
            "{:.1f}",
            (f"pictures a second, {clients} clients", f"每秒图片数，{clients} 个客户端"),
        ),
        (
            ("burst", burst.FIRST.name),
            "images_per_s",
            "{:.1f}",
            (
                f"pictures a second, the first {burst.PICTURES} after ready",
                f"每秒图片数，就绪后的前 {burst.PICTURES} 张",
            ),
        ),
        (
            ("burst", burst.FIRST.name),
            "longest_gap_ms",
            "{:,.0f} ms",
            ("the longest pause in one of these answers", "这些回答中最长的停顿"),
        ),
    )
    for (question, case), figure, form, name in cases:
        medians = [row.medians for each in PAIR if (row := run.row(question, case, each))]
        if len(medians) == len(PAIR) and all(figure in each for each in medians):
            yield name[language == "zh"], *(form.format(each[figure]) for each in medians)


def _started(runs: Sequence[Run], language: Language) -> Iterator[Sequence[str]]:
    """Of vLLM's defaults too only where a run has both."""
    name = {"en": "ready, the first time; later", "zh": "就绪用时，首次；以后"}[language]
    unknown = {"en": "not measured", "zh": "未测"}[language]
    for run in runs:
        times = {
            each: [row.medians["ready_s"] for case in start.CASES if (row := run.row("start", case, each))]
            for each in PAIR
        }
        if len(times["onecard"]) == len(start.CASES):
            yield name, *("; ".join(f"{each:.0f} s" for each in times[who]) or unknown for who in PAIR)
            return
