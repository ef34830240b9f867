"""A shop's CSV: a product a row, and the copy in columns beside what the table has. Asked as `onecard batch` asks."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

from clients.apps.products import ProductCopy, product
from clients.apps.prompts import Language
from clients.batch.inputs import Batch, Item, beside
from clients.batch.journal import Journal
from clients.batch.results import in_place
from clients.batch.run import Job, Outcome, run_job
from clients.errors import InputError
from clients.task import Task

# What the columns may be called; the first name is the one that messages use.
_NAME = ("name", "名称", "商品名称")
_CATEGORY = ("category", "类别", "商品类别")
_PICTURES = ("pictures", "images", "picture", "image", "图片")
_ADDED = ("selling_points", "scenario", "call_to_action", "text", "characters", "error")

Rows = dict[str, dict[str, str]]


def run_table(table: Path, out: Path, url: str, *, language: Language | None, length: int) -> Outcome:
    """Raises InputError for a table that cannot be asked about, and what `run_batch` raises."""
    if out.suffix.lower() != ".csv":
        raise InputError(f"--out {out}: a table of products is written as .csv.")
    product("", "", [], length=length)  # a length that is none is told before anything is asked
    rows, encoding = _read(table)
    columns = [_column(table, rows, names) for names in (_NAME, _CATEGORY, _PICTURES)]
    tasks = {key: _task(table, row, columns, language, length) for key, row in rows.items()}
    batch = Batch(table, [Item(key, image=row[columns[2]]) for key, row in rows.items()], task=lambda i: tasks[i.id])
    about = {"application": "product", "language": language, "length": length}
    return run_job(Job(batch, out, url, about, partial(_write, rows, encoding)))


def _read(table: Path) -> tuple[Rows, str]:
    """The rows by what tells them apart, and the encoding: with a mark at its beginning, which Excel needs, if it has one."""
    try:
        marked = table.read_bytes().startswith(b"\xef\xbb\xbf")
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as CSV in UTF-8 ({error}).") from error
    if not rows:
        raise InputError(f"{table} has no products in it.")
    keyed = {row.get("id") or f"row {number}": row for number, row in enumerate(rows, 1)}
    if len(keyed) < len(rows):
        raise InputError(f"{table}: an `id` stands in several rows; each needs its own.")
    return keyed, "utf-8-sig" if marked else "utf-8"


def _column(table: Path, rows: Rows, names: tuple[str, ...]) -> str:
    first = next(iter(rows.values()))
    found = next((name for name in names if name in first), None)
    if found is None:
        raise InputError(f"{table} has no column `{names[0]}` (or {', '.join(names[1:])}); it has {', '.join(first)}.")
    if empty := next((key for key, row in rows.items() if not row[found].strip()), None):
        raise InputError(f"{table}, {empty}: the column `{found}` is empty.")
    return found


def _task(
    table: Path, row: dict[str, str], columns: list[str], language: Language | None, length: int
) -> Task[ProductCopy]:
    name, category, pictures = (row[column].strip() for column in columns)
    files = [beside(table, each.strip()) for each in pictures.replace("；", ";").split(";") if each.strip()]
    return product(name, category, files, language=language, length=length)


def _write(rows: Rows, encoding: str, out: Path, batch: Batch, journal: Journal) -> None:
    kept = [name for name in next(iter(rows.values())) if name not in _ADDED]
    with in_place(out, encoding) as stream:
        table = csv.DictWriter(stream, [*kept, *_ADDED], extrasaction="ignore")
        table.writeheader()
        for item in batch.items:
            if record := journal.get(item.id):
                table.writerow(rows[item.id] | _cells(record))


def _cells(record: dict[str, Any]) -> dict[str, Any]:
    if record["answer"] is None:
        return dict.fromkeys(_ADDED, "") | {"error": record["error"]}
    copy = ProductCopy.model_validate(record["answer"])
    cells = copy.model_dump() | {"selling_points": "; ".join(copy.selling_points)}
    return cells | {"text": copy.text, "characters": len(copy.text), "error": ""}
