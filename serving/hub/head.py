"""From what `--speculative-config` says to an EAGLE3 head: a folder, or a hub's, here already or not.

Resolving asks no hub. What a head's files mean is `serving.planning.heads`'s question.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from serving.errors import CheckpointError
from serving.hub.cache import Cache
from serving.hub.listing import is_hub_id
from serving.models.files import Folder
from serving.planning.asked_speculation import AskedSpeculation
from serving.planning.heads import DraftHead, read_head
from serving.planning.profile import Model


@dataclass(frozen=True)
class ResolvedHead:
    """`path` is a folder's; where it is None, `name` is the Hub id of one of that revision."""

    name: str
    path: Path | None = None
    revision: str = "main"

    @property
    def folder(self) -> Path | None:
        """None while it is a hub's and not on this machine."""
        return self.path or Cache(self.name).find(self.revision)

    def read(self) -> DraftHead:
        """Of one that is not here the few bytes that a plan needs. Raises CheckpointError, HubError when no hub gives it."""
        if folder := self.folder:
            return read_head(self.name, str(folder), Folder(folder))
        from serving.hub.headers import RemoteFiles
        from serving.hub.sources import with_a_hub

        return with_a_hub(self.name, self.revision, lambda hub: read_head(self.name, self.name, RemoteFiles(hub)))

    def download(self) -> Path:
        """The folder, once everything is in it. Raises HubError, CheckpointError or DiskFullError."""
        if self.path:
            return self.path
        from serving.hub.pull import pull

        return pull(self.name, self.revision)


def resolve_head(asked: AskedSpeculation | None, model: Model) -> ResolvedHead | None:
    """The head that is asked for, else the one that the model's YAML file names; None where none is wanted, or known."""
    if asked is None or not asked.by_head:
        return None
    if asked.model is None:
        known = model.eagle3
        return ResolvedHead(known.hub, revision=known.revision) if known else None
    path = Path(os.path.expanduser(asked.model))
    if path.is_dir():
        return ResolvedHead(path.resolve().name, path.resolve())
    if not is_hub_id(asked.model):
        raise CheckpointError(
            f"There is no folder {path} with an EAGLE3 head. `model` in --speculative-config takes a folder or a Hub id, such "
            "as AngelSlim/Qwen3-VL-2B-Instruct_eagle3."
        )
    return ResolvedHead(asked.model, revision=asked.revision)
