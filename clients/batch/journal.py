"""What has been answered, on disk before anything else happens: one JSON object a line, appended and synced.

The first line says of which run it is. A line that a kill cut short is dropped when the journal is opened again.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from clients.errors import InputError

_BEGINS = b'{"onecard_batch": {'


class Journal:
    """`answered` and `failed` are the ids of this run and those before. Raises InputError for the journal of another."""

    def __init__(self, file: Path, run: dict[str, Any]) -> None:
        self.file = file
        self._places: dict[str, int] = {}
        self._failed: set[str] = set()
        try:
            self._stream = file.open("a+b")
        except OSError as error:
            raise InputError(f"{file} cannot be written ({error.strerror}).") from error
        try:
            self._open(run)
        except BaseException:
            self._stream.close()
            raise

    @property
    def answered(self) -> set[str]:
        return self._places.keys() - self._failed

    @property
    def failed(self) -> set[str]:
        return set(self._failed)

    def add(self, record: dict[str, Any]) -> None:
        """Returns when it is on the disk."""
        place = self._stream.seek(0, os.SEEK_END)
        self._append(record)
        self._note(record, place)

    def get(self, name: str) -> dict[str, Any] | None:
        """The latest record of that id."""
        if name not in self._places:
            return None
        self._stream.seek(self._places[name])
        found: dict[str, Any] = json.loads(self._stream.readline())
        return found

    def _open(self, run: dict[str, Any]) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another `onecard batch` is writing {self.file}.") from error
        lines = self._whole_lines()
        first = next(lines, None)
        if first is None:
            self._append({"onecard_batch": run})
            return
        before = first[1].get("onecard_batch")
        if not isinstance(before, dict):
            raise self._foreign()
        if other := sorted(key for key in before.keys() | run.keys() if before.get(key) != run.get(key)):
            raise InputError(
                f"{self.file} is of another run ({', '.join(other)} differ). Name another --out, or move it away."
            )
        for place, record in lines:
            self._note(record, place)

    def _foreign(self) -> InputError:
        return InputError(f"{self.file} is not the journal of a batch. Name another --out, or move it away.")

    def _whole_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each line with its place. One that a kill cut short, which is the last and has no end, is cut off."""
        place = 0
        self._stream.seek(0)
        while line := self._stream.readline():
            if not line.endswith(b"\n"):
                if place == 0 and not line.startswith(_BEGINS[: len(line)]):
                    raise self._foreign()
                self._stream.truncate(place)
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise (
                    self._foreign()
                    if place == 0
                    else InputError(
                        f"{self.file} is damaged at byte {place}: that line is not JSON. Move it away to begin anew."
                    )
                )
            yield place, record
            place += len(line)
            self._stream.seek(place)

    def _append(self, record: dict[str, Any]) -> None:
        self._stream.seek(0, os.SEEK_END)
        # A file's name need not be UTF-8; what is not is written as JSON's own escape, and read again as the same name.
        self._stream.write(json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _note(self, record: dict[str, Any], place: int) -> None:
        name = str(record.get("id"))
        self._places[name] = place
        if record.get("error"):
            self._failed.add(name)
        else:
            self._failed.discard(name)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
