"""The file that people read: the answers in the order of the input, as JSONL or CSV, or in OpenAI's batch format."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from clients.batch.inputs import Batch, Item
from clients.batch.journal import Journal

_COLUMNS = ("id", "image", "page", "answer", "error", "prompt_tokens", "completion_tokens", "seconds")


def write_results(out: Path, batch: Batch, journal: Journal) -> None:
    """All that the journal has."""
    with in_place(out) as stream:
        table = csv.DictWriter(stream, _COLUMNS, extrasaction="ignore") if out.suffix.lower() == ".csv" else None
        if table:
            table.writeheader()
        for item in batch.items:
            record = journal.get(item.id)
            if record is None:
                continue
            if table:
                table.writerow(record)
            else:
                shown = _as_openai(item, record) if batch.requests else record
                stream.write(json.dumps(shown, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def in_place(out: Path, encoding: str = "utf-8") -> Iterator[IO[str]]:
    """A file that is there at once when it is whole: who reads it never sees half of it. Of the name of a file what is not
    UTF-8 is escaped."""
    unfinished = out.with_name(out.name + ".unfinished")
    with unfinished.open("w", encoding=encoding, errors="backslashreplace", newline="") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(out)


def _as_openai(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    """A line of the output file of OpenAI's Batch API."""
    line: dict[str, Any] = {"id": f"batch_req_{item.id}", "custom_id": item.id, "response": None, "error": None}
    if record.get("error"):
        return line | {"error": {"code": "failed", "message": record["error"]}}
    body = record["response"]
    return line | {"response": {"status_code": 200, "request_id": body["id"], "body": body}}
