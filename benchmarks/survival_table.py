"""The documents' table of who lives on a full card, from `results/survival-*.json`. figures.py puts it with the others."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.contenders import TITLES
from benchmarks.markdown import NOT_MEASURED, Language, Table, listed

_CAUSE = re.compile(r"(?:OutOfMemory|Value|Runtime|EngineDead)Error: (.*?)(?:\. |\.?$)")


def measured(language: Language, results: Path, table: Table) -> str:
    """For each file where and by what it was measured; then a row for each contender on each card."""
    found = [_measured(file, language, table) for file in sorted(results.glob("survival-*.json"))]
    return "\n\n".join(found) or NOT_MEASURED[language]


def _measured(file: Path, language: Language, table: Table) -> str:
    about = json.loads(file.read_text(encoding="utf-8"))
    where = listed(language, about["gpu"], f"vLLM {about['vllm']}", about["date"])
    by = _commands(about, language)
    said = {"en": f"{where}, by {by}:", "zh": f"{where}，命令为 {by}："}[language]
    head = {
        "en": ("memory", "server", "lived", "answered", "refused or failed", "preempted", "held at most"),
        "zh": ("显存", "服务器", "活着", "已回答", "被拒绝或失败", "被抢占", "最多占用"),
    }[language]
    runs = sorted(about["points"], key=lambda run: (run["usable_mib"], run["contender"] != "onecard"))
    return f"{said}\n\n{table(head, (_row(run, language) for run in runs))}"


def _commands(about: dict[str, Any], language: Language) -> str:
    """The command of the last run, and who was measured by another one: a file is filled by several."""
    command = about["command"]
    named = re.search(r"--contenders (\S+)", command)
    measured = dict.fromkeys(run["contender"] for run in about["points"])
    others = ",".join(each for each in measured if named and each not in named[1].split(","))
    more = {"en": f", and with `--contenders {others}`", "zh": f"，另用 `--contenders {others}` 测过"}[language]
    return f"`{command}`" + (more if others else "")


def _row(run: dict[str, Any], language: Language) -> tuple[str, ...]:
    of_card = {
        "en": f"{run['usable_mib']:,} MiB (`{run['card']}`)",
        "zh": f"{run['usable_mib']:,} MiB（`{run['card']}`）",
    }
    good, lost = counted(run)
    return (
        of_card[language],
        _title(run, language),
        {"en": "yes", "zh": "是"}[language] if run["lives"] else _cause(run, language),
        f"{good:,}",
        f"{lost:,}" if "answers" in run else "–",
        f"{run['preemptions']:,.0f}" if run.get("preemptions") is not None else "–",
        f"{run['peak_mib']:,} MiB" if "answers" in run else "–",
    )


def counted(run: dict[str, Any]) -> tuple[int, int]:
    """How many requests of a run were answered, and how many refused or failed."""
    # Beside each code stands the same with its words.
    counts = {kind: count for kind, count in run.get("answers", {}).items() if ":" not in kind}
    good = counts.pop("200", 0)
    return good, sum(counts.values())


def _title(run: dict[str, Any], language: Language) -> str:
    kind, _, fits = run["contender"].partition(":")
    share = {"en": ", with a share that fits", "zh": "，占用比例调到放得下"}[language] if fits else ""
    beside = {"en": ", beside others", "zh": "，与别的同时"}[language] if not run.get("alone", True) else ""
    return TITLES[kind] + share + beside


def _cause(run: dict[str, Any], language: Language) -> str:
    """In the server's own words."""
    told = next((found.group(1) for line in run["log"] if (found := _CAUSE.search(line))), "")
    if "ready_s" in run:
        return {"en": f"no: {told or 'it died'}", "zh": f"否：{told or '已崩溃'}"}[language]
    return {"en": f"did not start: {told}", "zh": f"没有启动：{told}"}[language]
