"""The documents' table of what a picture costs before the GPU sees it, from `results/image-path.json`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import NOT_MEASURED, Language, Table, listed


def measured(language: Language, results: Path, table: Table) -> str:
    """Where and by what it was measured, and a row a picture."""
    file = results / "image-path.json"
    if not file.is_file():
        return NOT_MEASURED[language]
    about = json.loads(file.read_text(encoding="utf-8"))
    where = listed(language, about["machine"], about["vllm"], about["date"])
    said = {
        "en": f"{where}, by `{about['command']}`: milliseconds a picture.",
        "zh": f"{where}，命令为 `{about['command']}`：每张图片的毫秒数。",
    }[language]
    head = {
        "en": (
            "picture",
            "vLLM, many threads",
            "vLLM, its one thread",
            "onecard, many threads",
            "onecard, vLLM's one thread",
        ),
        "zh": ("图片", "vLLM，多个线程", "vLLM，唯一的线程", "onecard，多个线程", "onecard，vLLM 唯一的线程"),
    }[language]
    return f"{said}\n\n{table(head, (_row(picture) for picture in about['pictures']))}"


def _row(picture: dict[str, Any]) -> tuple[str, ...]:
    cells = [picture["picture"]]
    for side in ("vllm", "onecard"):
        steps = picture[side]
        cells += [f"{sum(steps[name] for name in ('read', 'decode', 'resize')):.1f}", f"{steps['one thread']:.1f}"]
    return tuple(cells)
