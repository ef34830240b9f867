"""Notes which requests are in a server's engine, in a file that outlives it, so that the supervisor knows whom to suspect after
a crash. Digests of the bodies, nothing of their content; one file a server. A full disk costs the notes and nothing else."""

import contextlib
import logging
import os
import weakref
from pathlib import Path

logger = logging.getLogger("vllm.onecard")

_DIGEST_BYTES = 32
_FREE = bytes(_DIGEST_BYTES)


class InEngine:
    """The server's side. `places` is the most requests that the engine can hold."""

    def __init__(self, folder: Path, places: int) -> None:
        self._free = list(range(places))
        try:
            self._file = os.open(_file(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            logger.warning("what is in the engine at a crash is not noted: %s", error)
            self._free = []
        else:
            weakref.finalize(self, os.close, self._file)

    def enter(self, digest: bytes) -> int | None:
        """Notes a request that enters the engine. Returns its place, for `leave`."""
        if not self._free:
            return None
        place = self._free.pop()
        self._note(place, digest)
        return place

    def leave(self, place: int | None) -> None:
        if place is not None:
            self._note(place, _FREE)
            self._free.append(place)

    def _note(self, place: int, digest: bytes) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._file, digest, place * _DIGEST_BYTES)


def left_by(folder: Path) -> set[bytes]:
    """The supervisor's side: what was in the engine of a server that has died. The notes are deleted."""
    with contextlib.suppress(OSError):
        notes = _file(folder).read_bytes()
        _file(folder).unlink()
        places = (notes[at : at + _DIGEST_BYTES] for at in range(0, len(notes), _DIGEST_BYTES))
        return {digest.ljust(_DIGEST_BYTES, b"\0") for digest in places} - {_FREE}
    return set()


def _file(folder: Path) -> Path:
    return folder / "in-engine"
