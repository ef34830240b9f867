"""Which requests were in the engine when it died, over the lives of one server: a picture or a schema that kills the
engine is sent again by its client's own retries, and would kill the next one too.

What is in the engine is noted in a file, as digests of the bodies and nothing of what they say; a process that is killed
leaves it behind, and its successor reads there whom to suspect. A full disk costs this and nothing else.
"""

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.state_dir import read_json, write_json

logger = logging.getLogger("vllm.onecard")

# The first crash may have been any request's, and the second somebody's who pulled the plug.
CONVICTED_AT = 3
_FORGOTTEN_AFTER_S = 3600.0
_MOST = 256
_DIGEST_BYTES = 32
_FREE = bytes(_DIGEST_BYTES)


@dataclass(frozen=True)
class Record:
    """The crashes that a request was part of since it was last answered; `alone` at the last of them. Unix time."""

    crashes: int
    alone: bool
    at: float


class Suspects:
    """Records by digest. `restarts` is 0 at a server's first start, which suspects nobody; `places` is how many requests
    are in the engine at most."""

    def __init__(self, folder: Path, restarts: int, places: int) -> None:
        self._records_file = folder / "suspects.json"
        self._records: dict[str, Record] = {}
        self._free = list(range(places))
        in_engine = folder / "in-engine"
        try:
            if restarts:
                self._records = _read(self._records_file)
                self._blame(in_engine.read_bytes())
            self._write()
            self._file = os.open(in_engine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            logger.warning("what is in the engine at a crash is not noted: %s", error)
            self._free = []
        else:
            weakref.finalize(self, os.close, self._file)

    def suspected(self, digest: bytes) -> bool:
        """Whether it was in the engine at a crash and has not been answered since."""
        return self._known(digest) is not None

    def convicted(self, digest: bytes) -> bool:
        """Whether it was there at so many crashes, at the last of them with nobody else to blame."""
        record = self._known(digest)
        return record is not None and record.crashes >= CONVICTED_AT and record.alone

    def acquit(self, digest: bytes) -> None:
        """It has been answered: what it was part of was another's doing."""
        if self._records.pop(digest.hex(), None):
            self._write()

    def enter(self, digest: bytes) -> int | None:
        """Notes that it goes into the engine; its place, for `leave`."""
        if not self._free:
            return None
        place = self._free.pop()
        self._note(place, digest)
        return place

    def leave(self, place: int | None) -> None:
        if place is not None:
            self._note(place, _FREE)
            self._free.append(place)

    def _known(self, digest: bytes) -> Record | None:
        record = self._records.get(digest.hex())
        return record if record and time.time() - record.at < _FORGOTTEN_AFTER_S else None

    def _note(self, place: int, digest: bytes) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._file, digest, place * _DIGEST_BYTES)

    def _blame(self, left: bytes) -> None:
        found = {digest for digest in _digests(left) if digest != _FREE}
        for digest in found:
            before = self._known(digest)
            record = Record(before.crashes + 1 if before else 1, len(found) == 1, time.time())
            self._records[digest.hex()] = record
            logger.warning("request %s was in the engine at %d crashes", digest.hex()[:16], record.crashes)

    def _write(self) -> None:
        newest = sorted(self._records.items(), key=lambda item: item[1].at)[-_MOST:]
        with contextlib.suppress(OSError):
            write_json(self._records_file, {digest: asdict(record) for digest, record in newest})


def _digests(left: bytes) -> Iterator[bytes]:
    for at in range(0, len(left), _DIGEST_BYTES):
        yield left[at : at + _DIGEST_BYTES].ljust(_DIGEST_BYTES, b"\0")


def _read(file: Path) -> dict[str, Record]:
    kept: Any = read_json(file)
    return {digest: Record(**record) for digest, record in kept.items()} if isinstance(kept, dict) else {}
