"""The documents' table of how right the memory plan is, from `results/memory-*.json`. figures.py puts it with the others."""

import json
from pathlib import Path

from benchmarks.markdown import NOT_MEASURED, Language, Table, listed
from benchmarks.memory_score import UNDER_MIB, WITHIN, WITHIN_MIB, Point, fit, halves, read_points
from serving.planning.memory import MEASURED, MIB, Constants


def measured(language: Language, results: Path, table: Table) -> str:
    """For each file where and by what it was measured and how many points are near enough; of the newest vLLM also a row a
    point."""
    files = sorted(results.glob("memory-*.json"), reverse=True)
    found = [_measured(file, language, table if file == files[0] else None) for file in files]
    return "\n\n".join(found) or NOT_MEASURED[language]


def _measured(file: Path, language: Language, table: Table | None) -> str:
    about = json.loads(file.read_text(encoding="utf-8"))
    points = read_points(file)
    fitted_on, scored_on = halves(points)
    fitted = fit(fitted_on) if fitted_on else MEASURED
    near = sum(point.holds(fitted) for point in scored_on)
    shipped = sum(point.holds(point.shipped) for point in points)
    where = listed(language, about["gpu"], f"vLLM {about['vllm']}", about["date"])
    bound = f"{WITHIN:.0%} or {WITHIN_MIB} MiB" if language == "en" else f"{WITHIN:.0%} 或 {WITHIN_MIB} MiB"
    grow = all(point.expandable_segments for point in points)
    kind = "" if grow else {"en": ", its allocator's segments fixed", "zh": "，分配器的段大小固定"}[language]
    said = {
        "en": f"{where}{kind}, by `{about['command']}`: the peak of everything but the KV cache, in MiB. With constants fitted "
        f"on {len(fitted_on)} of the points, {near} of the other {len(scored_on)} are within {bound} and at most {UNDER_MIB} "
        f"MiB under; with the shipped ones, {shipped} of all {len(points)}.",
        "zh": f"{where}{kind}，命令为 `{about['command']}`：除 KV 缓存外所有部分的峰值（MiB）。"
        f"用其中 {len(fitted_on)} 个点拟合常数，其余 {len(scored_on)} 个点中有 {near} 个误差在 {bound} 以内，"
        f"且最多少算 {UNDER_MIB} MiB；"
        f"用随附的常数，{len(points)} 个点中有 {shipped} 个。",
    }
    heads = {
        "en": ("point", "", "measured", "predicted", "off", "with shipped constants"),
        "zh": ("测量点", "", "实测", "预测", "误差", "用随附的常数"),
    }
    used = {"en": ("fitted", "scored"), "zh": ("拟合", "评分")}[language]
    rows = (
        _row(point, which, fitted) for which, half in zip(used, (fitted_on, scored_on), strict=True) for point in half
    )
    return f"{said[language]}\n\n{table(heads[language], rows)}" if table else said[language]


def _row(point: Point, which: str, fitted: Constants) -> tuple[str, ...]:
    peak = point.peak / MIB
    predicted, shipped = (peak + point.off_mib(constants) for constants in (fitted, point.shipped))
    return (
        point.name,
        which,
        f"{peak:,.0f}",
        f"{predicted:,.0f}",
        _off(predicted, peak),
        f"{shipped:,.0f} ({_off(shipped, peak)})",
    )


def _off(predicted: float, peak: float) -> str:
    return f"{100 * (predicted - peak) / peak:+.1f}%"
