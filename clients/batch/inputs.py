"""What a batch asks about: a folder, a CSV or JSONL table, or OpenAI's batch file. Holds names and places, no pictures."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import pdf
from clients.errors import InputError
from clients.places import place
from clients.task import Task

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".pdf"})
_PICTURE = ("image", "picture", "path", "file", "url")
_PROMPT = ("prompt", "question")


@dataclass(frozen=True)
class Item:
    """`id` tells it from the others, in this run and the next. `prompt` is its own, or None for that of the run.
    With `line`, the picture or the request is in the JSONL at that byte, and is read when its turn comes."""

    id: str
    image: str | None = None
    prompt: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Batch:
    """`requests`: the lines are whole requests in OpenAI's batch format, and the results are to be in it too. `task` is
    what an application does with each item; its result is then the record's `answer`."""

    source: Path
    items: list[Item]
    requests: bool = False
    task: Callable[[Item], Task[Any]] | None = None

    def record(self, item: Item) -> dict[str, Any]:
        """The line of the JSONL that the item stands in."""
        with self.source.open("rb") as stream:
            stream.seek(item.line or 0)
            found: dict[str, Any] = json.loads(stream.readline())
        return found


def read_batch(source: Path, prompt: str | None) -> Batch:
    """Raises InputError for what holds no pictures, and for pictures without a question."""
    if source.is_dir():
        batch = Batch(source, _of_folder(source))
    elif not source.is_file():
        raise InputError(f"{source} is neither a folder nor a file.")
    elif source.suffix.lower() == ".csv":
        batch = Batch(source, _of_csv(source))
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        batch = _of_jsonl(source)
    else:
        raise InputError(
            f"{source}: a batch is a folder, a .csv or a .jsonl. For a single picture there is `onecard ask`."
        )
    if not batch.items:
        raise InputError(
            f"{source} has nothing to ask about ({', '.join(sorted(_SUFFIXES))} in a folder, lines in a file)."
        )
    twice = [name for name, count in Counter(item.id for item in batch.items).items() if count > 1]
    if twice:
        raise InputError(f"{source}: {twice[0]!r} is the id of several; each needs its own.")
    if prompt is None and not batch.requests and (mute := [item for item in batch.items if item.prompt is None]):
        raise InputError(f"{source}: {mute[0].id} comes without a question. Give one for all with --prompt.")
    return batch


def _of_folder(folder: Path) -> list[Item]:
    # A link that leads nowhere is listed too: it fails by itself, and is told.
    named = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    files = sorted(path for path in named if path.is_file() or not path.exists())
    return [
        item for path in files for item in _pages(path.relative_to(folder).as_posix(), str(path), None, lenient=True)
    ]


def _of_csv(table: Path) -> list[Item]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            column = _column(table, reader.fieldnames or [])
            rows = list(enumerate(reader, 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as CSV in UTF-8 ({error}).") from error
    items: list[Item] = []
    for number, row in rows:
        name = (row.get(column) or "").strip()
        if not name:
            raise InputError(f"{table}, line {number}: the column `{column}` is empty.")
        items += _pages(row.get("id") or f"{number}:{name}", beside(table, name), _prompt(row))
    return items


def _of_jsonl(table: Path) -> Batch:
    items: list[Item] = []
    requests, place = False, 0
    with table.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            begins, place = place, place + len(line)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{table}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise InputError(f"{table}, line {number}: each line is an object.")
            if "custom_id" in row and isinstance(row.get("body"), dict):
                if row.get("url", "/v1/chat/completions") != "/v1/chat/completions":
                    raise InputError(f"{table}, line {number}: of OpenAI's batches, only chat completions are asked.")
                requests = True
                items.append(Item(str(row["custom_id"]), line=begins))
                continue
            if requests:
                raise InputError(f"{table}, line {number}: not in OpenAI's batch format, as the lines before are.")
            name = row[_column(table, list(row), number)]
            if not isinstance(name, str) or not name:
                raise InputError(f"{table}, line {number}: the picture is not named by a string.")
            if name[:5].lower() == "data:":
                items.append(Item(str(row.get("id") or number), prompt=_prompt(row), line=begins))
            else:
                items += _pages(str(row.get("id") or f"{number}:{name}"), beside(table, name), _prompt(row))
    return Batch(table, items, requests)


def picture_in(row: dict[str, Any]) -> str:
    """The data URL in a line of a JSONL."""
    return str(next(row[key] for key in _PICTURE if key in row))


def _pages(name: str, path: str, prompt: str | None, *, lenient: bool = False) -> list[Item]:
    """One item a page of a PDF. A broken PDF is one item, which then fails by itself and not the batch."""
    if not pdf.is_pdf(path):
        return [Item(name, path, prompt)]
    try:
        pages = pdf.page_names(path)
    except (InputError, OSError):
        return [Item(name, path, prompt)]
    numbered = lenient or len(pages) > 1
    return [Item(f"{name}#page={pdf.page_number(page)}" if numbered else name, page, prompt) for page in pages]


def _column(table: Path, names: Sequence[str], line: int | None = None) -> str:
    found = next((name for name in _PICTURE if name in names), None)
    if found is None:
        where = f"{table}, line {line}" if line else table
        raise InputError(
            f"{where} has no column `image` (or {', '.join(_PICTURE[1:])}); it has {', '.join(names) or 'none'}."
        )
    return found


def _prompt(row: dict[str, Any]) -> str | None:
    return next((str(row[key]) for key in _PROMPT if row.get(key)), None)


def beside(table: Path, name: str) -> str:
    """A path in a table is meant from where the table lies."""
    return name if "://" in name else str(table.parent / place(name))
