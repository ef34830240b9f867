"""One file of a hub, fetched into its place: it goes on at the byte where it was interrupted, and is checked at the end."""

import hashlib
import os
from pathlib import Path

from serving.errors import HubError
from serving.hub.listing import RemoteFile
from serving.hub.meter import Meter
from serving.hub.transport import InterruptedTransferError, Patience, Transport

_CHUNK_BYTES = 2**20


def fetch(hub: Transport, file: RemoteFile, place: Path, partial: Path, meter: Meter) -> None:
    """Fills `partial` and renames it to `place` when its checksum is right. Raises HubError, and OSError of the disk."""
    resumed = partial.exists()
    found = _receive(hub, file, partial, meter)
    if found != file.checksum and resumed:
        # What was there before may have been the damaged part.
        meter.add(-partial.stat().st_size)
        partial.unlink()
        found = _receive(hub, file, partial, meter)
    if found != file.checksum:
        meter.add(-partial.stat().st_size)
        partial.unlink()
        raise HubError(
            f"{file.name} arrived with other contents than it lists (checksum {found[:12]}…, not {file.checksum[:12]}…) and "
            "was thrown away: a proxy or a mirror may have changed it."
        )
    partial.replace(place)


def is_intact(place: Path, file: RemoteFile) -> bool:
    """Whether the file is in its place with the right contents."""
    if not place.exists() or place.stat().st_size != file.size:
        return False
    digest = _digest(file)
    with place.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.checksum


def _receive(hub: Transport, file: RemoteFile, partial: Path, meter: Meter) -> str:
    """Appends to `partial` until it is as long as the file; its checksum. Raises as `fetch` does."""
    with partial.open("a+b") as out:
        if out.tell() > file.size:
            meter.add(-out.tell())
            out.truncate(0)
        digest, have = _digest(file), 0
        out.seek(0)
        while chunk := out.read(_CHUNK_BYTES):
            digest.update(chunk)
            have += len(chunk)
        farthest, patience = have, Patience()
        while have < file.size:
            try:
                with hub.open(file, have) as (begin, chunks):
                    if begin != have:  # the server knows no ranges: once more from the first byte
                        meter.add(-have)
                        out.truncate(0)
                        digest, have = _digest(file), 0
                    for chunk in chunks:
                        out.write(chunk)
                        digest.update(chunk)
                        meter.add(len(chunk))
                        have += len(chunk)
                        if have >= file.size:
                            break
                if have < file.size:
                    raise InterruptedTransferError(f"{file.name} ended after {have:,} of its {file.size:,} bytes.")
            except InterruptedTransferError as error:
                if have > farthest:
                    farthest, patience = have, Patience()
                patience.after(error)
        out.flush()
        os.fsync(out.fileno())  # a name in the cache must never stand for what a power cut has left
    return digest.hexdigest()


def _digest(file: RemoteFile) -> "hashlib._Hash":
    """SHA-256, or as git does it: SHA-1 of a small header and the contents."""
    if len(file.checksum) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
