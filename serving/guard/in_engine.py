"""What is in a server's engine, noted so that its death leaves it behind: digests of the requests' bodies, and nothing of what
they say. One file a server; the supervisor reads there whom to suspect. A full disk costs this and nothing else."""

import contextlib
import logging
import os
import weakref
from pathlib import Path

logger = logging.getLogger("vllm.onecard")

_DIGEST_BYTES = 32
_FREE = bytes(_DIGEST_BYTES)


class InEngine:
    """The server's side. `places` is how many requests are in the engine at most."""

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

    def _note(self, place: int, digest: bytes) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._file, digest, place * _DIGEST_BYTES)


def left_by(folder: Path) -> set[bytes]:
    """The supervisor's side: what was in the engine of the server that has died, told once."""
    with contextlib.suppress(OSError):
        notes = _file(folder).read_bytes()
        _file(folder).unlink()
        places = (notes[at : at + _DIGEST_BYTES] for at in range(0, len(notes), _DIGEST_BYTES))
        return {digest.ljust(_DIGEST_BYTES, b"\0") for digest in places} - {_FREE}
    return set()


def _file(folder: Path) -> Path:
    return folder / "in-engine"
