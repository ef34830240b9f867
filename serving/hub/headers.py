"""A checkpoint that is not here, read over the network: some hundred kB of some GB, kept so that it is asked for once."""

import contextlib
from collections.abc import Collection

from serving.hub.listing import RemoteFile, model_dir, write_whole
from serving.hub.sources import with_a_hub
from serving.hub.transport import Transport
from serving.models.checkpoint import Checkpoint, read_checkpoint


def read_remote_checkpoint(repo_id: str, revision: str) -> Checkpoint:
    """Raises HubError when no hub gives it, CheckpointError for what is broken or no vision-language model."""
    return with_a_hub(repo_id, revision, lambda transport: read_checkpoint(RemoteFiles(transport)))


class RemoteFiles:
    """The files of a hub's model (`serving.models.files.Files`). What was read is kept by its commit, which never changes."""

    remedy = "What is on the hub is broken: take another revision or model, and tell its publisher."

    def __init__(self, transport: Transport) -> None:
        listing = transport.listing
        self.where = listing.repo_id
        self._transport = transport
        self._files: dict[str, RemoteFile] = {file.name: file for file in listing.files}
        self._kept = model_dir(listing.repo_id) / listing.commit

    def names(self) -> Collection[str]:
        return self._files.keys()

    def size(self, name: str) -> int:
        return self._files[name].size

    def read(self, name: str, start: int, length: int) -> bytes:
        file = self._files[name]
        length = max(0, min(length, file.size - start))
        kept = self._kept / f"{name}.{start}-{start + length}"
        with contextlib.suppress(OSError):
            content = kept.read_bytes()
            if len(content) == length:
                return content
        content = self._transport.read(file, start, length)
        write_whole(kept, content)
        return content
