"""Which requests were in an engine when it died: a picture or a schema that kills one is sent again by its client's own
retries, and would kill the next one too, be it another card's.

The supervisor sees every death and is the only one who writes; the servers of all cards read. In memory and in one file of
the port's folder, as digests of the bodies and nothing of what they say. A full disk costs this and nothing else.
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

# The first crash may have been any request's, and the second somebody's who pulled the plug.
CONVICTED_AT = 3
_FORGOTTEN_AFTER_S = 3600.0
_MOST = 256
_MOST_ANSWERED = 1024


@dataclass(frozen=True)
class Record:
    """The crashes that a request was part of since it was last answered; `alone` at the last of them. Unix time."""

    crashes: int
    alone: bool
    at: float

    @property
    def convicted(self) -> bool:
        """Whether it was there at so many crashes, at the last of them with nobody else to blame."""
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
        """Of a request that was in an engine at a crash within the last hour and has not been answered since."""
        self._refresh()
        record = self._records.get(digest.hex())
        return record if record and record.age_s < _FORGOTTEN_AFTER_S else None

    # --- a server's side ---

    def answered(self, digest: bytes) -> None:
        """By this server's engine: the crash that it was part of was another's doing, which the supervisor is told."""
        self._answered[digest] = None
        self._answered.move_to_end(digest)
        if len(self._answered) > _MOST_ANSWERED:
            self._answered.popitem(last=False)
        if self.record(digest):
            control.tell(event="acquitted", digest=digest.hex())

    def was_answered(self, digest: bytes) -> bool:
        """By this server's engine, not long ago: somebody asks the same again and again, and that has killed nothing here."""
        return digest in self._answered

    # --- the supervisor's side ---

    def forget(self) -> None:
        """onecard itself is started anew: nobody is suspected."""
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
        """It has been answered: what it was part of was another's doing."""
        if self.record(digest):
            del self._records[digest.hex()]
            self._write()

    # --- the file ---

    def _refresh(self) -> None:
        """Reads it where it is another than the last time; to look takes two microseconds."""
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
