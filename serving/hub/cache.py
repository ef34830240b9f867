"""Where a hub's models lie on this machine: in the folder that every program of Hugging Face's shares (HF_HUB_CACHE).

Its layout is documented (huggingface.co/docs/huggingface_hub/guides/manage-cache): `blobs/` holds the contents by their
checksums, `snapshots/<commit>/` links to them by their names, `refs/<revision>` names the commit. So what another
program has downloaded is not downloaded again, and the other way round.
"""

import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants

from serving.errors import CheckpointError
from serving.hub.listing import Listing, kept_listing
from serving.models.checkpoint import read_json, read_processor, weight_files
from serving.models.files import Folder


class Cache:
    """The part of the cache that belongs to one model."""

    def __init__(self, repo_id: str) -> None:
        self._repo_id = repo_id
        self.folder = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"

    def find(self, revision: str) -> Path | None:
        """The folder of that revision when the whole model is in it; None otherwise."""
        for ref in (revision, f"modelscope/{revision}"):
            commit = self._commit(ref)
            if commit and self._is_whole(folder := self.folder / "snapshots" / commit, revision):
                return folder
        return None

    @property
    def blobs(self) -> Path:
        return self.folder / "blobs"

    def blob(self, checksum: str) -> Path:
        return self.blobs / checksum

    def partial(self, checksum: str) -> Path:
        """What has been received of a blob. The name ends as that of every unfinished download in this cache."""
        return self.blobs / f"{checksum}.onecard.incomplete"

    def publish(self, listing: Listing) -> Path:
        """Makes a snapshot of the blobs, which must all be there; the weights last, so that none seems whole too early."""
        folder = self.folder / "snapshots" / listing.commit
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(listing.files, key=lambda file: file.name.endswith(".safetensors")):
            with _replacing(folder / file.name) as temporary:
                temporary.symlink_to(os.path.relpath(self.blob(file.checksum), folder))
        if listing.revision != listing.commit:
            with _replacing(self.folder / "refs" / _ref(listing)) as temporary:
                temporary.write_text(listing.commit)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One download of a model at a time; a second waits, and then finds it here."""
        file = self.folder.parent / ".locks" / self.folder.name / "onecard.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.stderr.write(f"Another process downloads {self._repo_id}: waiting for it.\n")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _commit(self, ref: str) -> str | None:
        try:
            commit = (self.folder / "refs" / ref).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            commit = ref
        return commit if re.fullmatch("[0-9a-f]{40}", commit) else None

    def _is_whole(self, folder: Path, revision: str) -> bool:
        """By the hub's list of its files where onecard has it; else by what no vision-language model can do without, or no head
        that drafts for one."""
        listing = kept_listing(self._repo_id, revision)
        if listing and listing.commit == folder.name:
            return all((folder / file.name).exists() for file in listing.files)
        try:
            weights = weight_files(Folder(folder))
            sees = "vision_config" in read_json(Folder(folder), "config.json", "")
            if sees:
                read_processor(Folder(folder))
        except CheckpointError:
            return False
        has_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
        return bool(weights) and all((folder / name).exists() for name in weights) and (has_tokenizer or not sees)


def _ref(listing: Listing) -> str:
    """Hugging Face's name of a revision stays Hugging Face's."""
    return listing.revision if listing.source == "huggingface" else f"{listing.source}/{listing.revision}"


@contextmanager
def _replacing(place: Path) -> Iterator[Path]:
    """A name to make something under, which then takes the place as a whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    yield temporary
    temporary.replace(place)
