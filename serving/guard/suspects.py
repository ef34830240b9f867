"""Which requests were in an engine when it died. A picture or a schema that kills an engine is sent again by the client's
automatic retries, and would kill the next engine too, even another card's.

The supervisor sees every death and alone writes; the servers of all cards read. Records are kept in memory and in one file in
the port's folder: digests of the bodies, nothing of their content. A full disk costs the records and nothing else.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.ipc import control
from serving.machine.state_dir import read_json, write_json

# One crash may be any request's doing, and a second may be somebody pulling the plug.
CONVICTED_AT = 3
_FORGOTTEN_AFTER_S = 3600.0
_MOST = 256
_MOST_ANSWERED = 1024


@dataclass(frozen=True)
class Record:
    """The crashes that a request was part of since it was last answered, and whether it was `alone` at the last. Unix time."""

    crashes: int
    alone: bool
    at: float

    @property
    def convicted(self) -> bool:
        """Whether it was part of enough crashes, and nothing else can be blamed for the last."""
        return self.crashes >= CONVICTED_AT and self.alone

    @property
    def age_s(self) -> float:
        return time.time() - self.at


class Suspects:
    """Records by digest, in the folder that the servers share."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "suspects.json"
        self._records: dict[str, Record] = {}
        self._read: object = None
        self._answered = OrderedDict[bytes, None]()

    def record(self, digest: bytes) -> Record | None:
        """The record of a request that was part of a crash within the last hour and has not been answered since."""
        self._refresh()
        record = self._records.get(digest.hex())
        return record if record and record.age_s < _FORGOTTEN_AFTER_S else None

    # --- a server's side ---

    def answered(self, digest: bytes) -> None:
        """This server's engine has answered it, so its crash was another request's doing: tells the supervisor."""
        self._answered[digest] = None
        self._answered.move_to_end(digest)
        if len(self._answered) > _MOST_ANSWERED:
            self._answered.popitem(last=False)
        if self.record(digest):
            control.tell(event="acquitted", digest=digest.hex())

    def was_answered(self, digest: bytes) -> bool:
        """Whether this server's engine answered it lately: a request that is asked again and again, and kills nothing here."""
        return digest in self._answered

    # --- the supervisor's side ---

    def forget(self) -> None:
        """onecard itself has just started: no request is suspected."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def blame(self, digests: Collection[bytes]) -> None:
        """An engine has died with these in it."""
        for digest in digests:
            before = self.record(digest)
            crashes = before.crashes + 1 if before else 1
            self._records[digest.hex()] = Record(crashes, len(digests) == 1, time.time())
        if digests:
            self._write()

    def acquit(self, digest: bytes) -> None:
        """It has been answered, so its crash was another request's doing."""
        if self.record(digest):
            del self._records[digest.hex()]
            self._write()

    # --- the file ---

    def _refresh(self) -> None:
        """Reads the file again if it has changed; the check takes two microseconds."""
        now = None
        with contextlib.suppress(OSError):
            status = self._file.stat()
            now = (status.st_ino, status.st_mtime_ns)
        if now != self._read:
            self._read = now
            kept: Any = read_json(self._file)
            found = kept if isinstance(kept, dict) else {}
            self._records = {digest: Record(**record) for digest, record in found.items()}

    def _write(self) -> None:
        newest = sorted(self._records.items(), key=lambda item: item[1].at)[-_MOST:]
        with contextlib.suppress(OSError):
            write_json(self._file, {digest: asdict(record) for digest, record in newest})
