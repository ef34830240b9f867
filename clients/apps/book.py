"""Exercises from many pages, in one file of Markdown or JSON. Asked as `onecard batch` asks: a book may take a night."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clients import pdf
from clients.apps.prompts import Language, language_of, prompt
from clients.apps.textbook import Exercises, exercises, markdown
from clients.batch.inputs import Batch, Item
from clients.batch.journal import Journal
from clients.batch.results import in_place
from clients.batch.run import Job, Outcome, run_job
from clients.errors import InputError


def pages_of(names: Sequence[str]) -> list[str]:
    """Each page of a PDF by itself; a picture is a page. Raises InputError and OSError."""
    return [page for name in names for page in (pdf.page_names(name) if pdf.is_pdf(name) else [name])]


def title_of(page: str, language: Language) -> str:
    """As `algebra.pdf, page 3`."""
    number = pdf.page_number(page)
    name = Path(page.partition("#page=")[0]).name
    return f"{name}, {prompt('exercises', language).words['number'].format(number=number)}" if number else name


def run_book(
    names: Sequence[str], out: Path, url: str, *, count: int, topic: str, language: Language | None
) -> Outcome:
    """Raises InputError for what has no pages, and what `run_batch` raises."""
    if out.suffix.lower() not in (".md", ".json"):
        raise InputError(f"--out {out}: exercises are written as .md or .json.")
    make = partial(exercises, count=count, topic=topic, language=language)
    make([])  # a count that is none is told before anything is asked
    pages = pages_of(names)
    items = [Item(page, image=page) for page in dict.fromkeys(pages)]
    batch = Batch(Path(names[0]), items, task=lambda item: make(item.id))
    about = {"application": "exercises", "pages": pages, "count": count, "topic": topic, "language": language}
    return run_job(Job(batch, out, url, about, _write))


def as_json(page: str, found: Exercises) -> dict[str, Any]:
    return {"page": page, **found.model_dump()}


def _write(out: Path, batch: Batch, journal: Journal) -> None:
    records = [record for item in batch.items if (record := journal.get(item.id))]
    with in_place(out) as stream:
        if out.suffix.lower() == ".json":
            told = [{"page": each["id"], **(each["answer"] or {"error": each["error"]})} for each in records]
            stream.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
        else:
            stream.write("\n".join(map(_section, records)))


def _section(record: dict[str, Any]) -> str:
    page = record["id"]
    if record["answer"] is None:
        language = language_of(page)
        failed = prompt("exercises", language).words["failed"]
        return f"## {title_of(page, language)}\n\n{failed}: {record['error']}\n"
    found = Exercises.model_validate(record["answer"])
    return markdown(title_of(page, language_of(found.exercises[0].question)), found)
