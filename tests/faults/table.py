"""docs/faults.md: every row, what onecard answered in this run, how long it took, and what plain vLLM answered when it
was last asked. Written only when ONECARD_WRITE_FAULTS is set, since a test run should leave the tree as it was."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PLAIN = DOCS / "faults-vllm.json"
_TABLE = DOCS / "faults.md"
_HEAD = """# Bad inputs and faults, and what is answered

Written by `ONECARD_WRITE_FAULTS=1 make test` from what the tests of `tests/faults` saw; the column for plain vLLM by
`ONECARD_WRITE_FAULTS=1 .venv/bin/python -m pytest tests/faults/test_plain_vllm.py`. Both on the CPU, with the demo model.
After each case a known question about a picture was answered rightly. Milliseconds are the client's, with the sending.
A row's number is that of the kind of case; an empty cell was not measured.

| row | what is done | onecard | ms | plain vLLM {version} | ms |
|---|---|---|---:|---|---:|
"""


@dataclass(frozen=True)
class Line:
    row: str
    what: str
    answer: str
    ms: float | None = None


def writing() -> bool:
    return bool(os.environ.get("ONECARD_WRITE_FAULTS"))


def write_table(lines: list[Line]) -> None:
    """Replaces the lines of this run in the table's data and writes it anew, in the order of the rows."""
    kept = _read(_TABLE.with_suffix(".json"))
    kept |= {f"{line.row} {line.what}": line for line in lines}
    _write(_TABLE.with_suffix(".json"), kept)
    plain = _read(PLAIN)
    import vllm  # seconds, where nothing is written

    text = _HEAD.format(version=vllm.__version__)
    for name, line in sorted(kept.items(), key=lambda item: _order(item[1].row)):
        other = plain.get(name)
        cells = [
            line.row,
            line.what.replace("|", "\\|"),
            line.answer,
            _ms(line),
            other.answer if other else "",
            _ms(other),
        ]
        text += "| " + " | ".join(cells) + " |\n"
    _TABLE.write_text(text, encoding="utf-8")


def write_plain(lines: list[Line]) -> None:
    _write(PLAIN, {f"{line.row} {line.what}": line for line in lines})


def _read(file: Path) -> dict[str, Line]:
    if not file.is_file():
        return {}
    return {f"{each['row']} {each['what']}": Line(**each) for each in json.loads(file.read_text(encoding="utf-8"))}


def _write(file: Path, lines: dict[str, Line]) -> None:
    file.parent.mkdir(exist_ok=True)
    text = json.dumps([asdict(line) for line in lines.values()], indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def _order(row: str) -> tuple[int, str]:
    return int(row.rstrip("abc")), row


def _ms(line: Line | None) -> str:
    return f"{line.ms:,.0f}" if line and line.ms is not None else ""
