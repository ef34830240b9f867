"""The documents' tables of speed: what was measured (`results/speed-*.json`), and what is predicted for cards that nobody
here has (roofline.py). figures.py puts them with the others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import roofline
from benchmarks.markdown import NOT_MEASURED, Language, Table, listed
from benchmarks.questions import burst, start
from benchmarks.results import Facts, Row, Run


def runs(results: Path) -> list[Run]:
    """Every run that is kept, by the name of its file."""
    files = sorted(results.glob("speed-*.json"))
    return [Run.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


def measured(language: Language, results: Path, table: Table) -> str:
    """For each run what it was, and one row a contender; runs of nothing but starts have columns of their own."""
    found = [_measured(run, language, table) for run in runs(results) if run.rows]
    return "\n\n".join(found) or NOT_MEASURED[language]


def _measured(run: Run, language: Language, table: Table) -> str:
    machine = run.machine.get("gpu") or f"{run.machine['cores']} × {run.machine['cpu']}"
    engine = ", ".join(f"{name} {version}" for name, version in run.versions.items() if name.startswith("vllm"))
    where = listed(language, machine, engine, run.date)
    of_starts = all(row.question in ("start", "burst", "where") for row in run.rows)
    return (_started if of_starts else _asked)(run, where, language, table)


def _started(run: Run, where: str, language: Language, table: Table) -> str:
    said = {
        "en": f"Starts of `{run.model}`, {where}: from the command to `/ready`, by `{run.command}`.",
        "zh": f"`{run.model}` 的启动，{where}：从命令到 `/ready`，命令为 `{run.command}`。",
    }
    heads = {
        "en": ("", "ready, empty caches", "ready, warm caches", "first burst, warm caches"),
        "zh": ("", "就绪，空缓存", "就绪，热缓存", "首批请求，热缓存"),
    }
    return f"{said[language]}\n\n{table(heads[language], _starts(run))}"


def _asked(run: Run, where: str, language: Language, table: Table) -> str:
    tokens, clients = run.settings.get("tokens", 0), max(run.settings.get("clients", (1,)))
    said = {
        "en": f"`{run.model}`, {where}: one 1024×768 picture a request, answers of {tokens} tokens; "
        f"medians, by `{run.command}`.",
        "zh": f"`{run.model}`，{where}：每个请求一张 1024×768 的图片，回答 {tokens} 个 token；"
        f"取中位数，命令为 `{run.command}`。",
    }
    heads = {
        "en": (
            *("", "first token", "each further token", "whole answer", f"images/s, {clients} clients"),
            *("GPU busy", "first burst"),
        ),
        "zh": (
            *("", "首 token", "之后每个 token", "完整回答", f"图片/秒，{clients} 个客户端"),
            *("GPU 忙碌", "首批请求"),
        ),
    }
    return f"{said[language]}\n\n{table(heads[language], _rows(run, clients, language))}"


def _rows(run: Run, clients: int, language: Language) -> Iterator[Sequence[str]]:
    for name, facts in _without_variants(run):
        alone = run.row("latency", "1 client", name)
        many = run.row("throughput", f"{clients} clients" if clients > 1 else "1 client", name)
        bursts = (run.row("burst", "first burst after ready", name), run.row("burst", "second burst", name))
        yield (
            facts.title + _wrong(facts, [row for row in (alone, many, *bursts) if row], language),
            _figure(alone, "first_token_ms", "{:,.0f} ms"),
            _figure(alone, "per_token_ms", "{:.2f} ms"),
            _figure(alone, "total_ms", "{:,.0f} ms"),
            _figure(many, "images_per_s", "{:.1f}"),
            _figure(many, "gpu_busy", "{:.0%}"),
            _share(*bursts),
        )


def _wrong(facts: Facts, rows: Sequence[Row], language: Language) -> str:
    """What a reader has to know of the figures beside it."""
    if said := facts.failed or next((row.failed for row in rows if row.failed), ""):
        return f" ({said.splitlines()[0][:80]})"
    failed = sum(row.requests_failed for row in rows)
    return {"en": f" (failed requests: {failed})", "zh": f"（失败的请求：{failed}）"}[language] if failed else ""


def _without_variants(run: Run) -> list[tuple[str, Facts]]:
    """Who is on offer. What a lever does to onecard (`onecard:NAME`) is what NOTES.md tells."""
    return [(name, facts) for name, facts in run.contenders.items() if ":" not in name]


def _starts(run: Run) -> Iterator[Sequence[str]]:
    for name, facts in _without_variants(run):
        ready = (_figure(run.row("start", case, name), "ready_s", "{:.0f} s") for case in start.CASES)
        bursts = (run.row("burst", f"{case.name}, {start.WARM}", name) for case in (burst.FIRST, burst.SECOND))
        yield facts.title, *ready, _share(*bursts)


def _figure(row: Row | None, name: str, form: str) -> str:
    return form.format(row.medians[name]) if row and name in row.medians else "–"


def _share(first: Row | None, second: Row | None) -> str:
    """The first burst's throughput as a share of the second's."""
    if first is None or second is None or not (first.medians and second.medians):
        return "–"
    return f"{first.medians['images_per_s'] / second.medians['images_per_s']:.0%}"


def predicted(language: Language, results: Path, table: Table) -> str:
    """The roofline's bound for each card, and what is left of it with the overhead that was measured."""
    overheads = [overhead for run in runs(results) if (overhead := roofline.overhead_of(run))]
    least = roofline.predictions(roofline.Overhead())
    most = roofline.predictions(overheads[0]) if overheads else least
    heads = {
        "en": ("card (predicted, not measured)", "first token", "tok/s, one client", "images/s, 16 in flight"),
        "zh": ("显卡（预测，未实测）", "首 token", "tok/s，一个客户端", "图片/秒，16 个并发"),
    }[language]
    rows = (
        (
            bound.title,
            _between(bound.first_token_s, real.first_token_s, "{:.2f}") + " s",
            _between(real.tokens_per_s, bound.tokens_per_s, "{:.0f}"),
            _between(real.images_per_s, bound.images_per_s, "{:.1f}"),
        )
        for bound, real in zip(least, most, strict=True)
    )
    return table(heads, rows)


def _between(low: float, high: float, form: str) -> str:
    texts = list(dict.fromkeys((form.format(low), form.format(high))))
    return "–".join(texts)
