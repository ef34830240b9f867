"""From what `--model` says to a checkpoint: a folder, the built-in model, or a model of a hub, here already or not.

`resolve_model` asks no hub. What it returns reads a checkpoint (of a model that is not here: its headers only) and
downloads it. Below it, in the order in which they call each other:

    head.py                         the same for the EAGLE3 head that drafts for a model
    headers.py, pull.py             a checkpoint read from afar; a download (fetch.py: one file of it, meter.py: how far it is)
    cache.py                        where downloads lie
    sources.py                      whom to ask, in which order
    huggingface.py, modelscope.py   what each of them says
    transport.py                    bytes over HTTP
    listing.py                      the files of a model at one commit, which is pinned
"""

import os
from dataclasses import dataclass
from pathlib import Path

from serving.errors import CheckpointError
from serving.hub.cache import Cache
from serving.hub.listing import is_hub_id
from serving.models.checkpoint import Checkpoint, read_checkpoint
from serving.models.files import Folder
from serving.planning.profile import Model, ModelSource, find_model, load_models, shape_dir
from serving.setup.near import nearest


@dataclass(frozen=True)
class ResolvedModel:
    """`folder` is None where the model is a hub's and not on this machine."""

    name: str
    model: Model
    folder: Path | None

    def checkpoint(self) -> Checkpoint:
        """Reads it; of a model that is not here, its shipped config, or else the few bytes of the hub's that a plan needs,
        which are kept for the next time.

        Raises CheckpointError for what is broken or no vision-language model, HubError when no hub gives it.
        """
        if self.folder is not None:
            return read_checkpoint(Folder(self.folder))
        if shape := shape_dir(self.name):
            return read_checkpoint(Folder(shape))
        from serving.hub.headers import read_remote_checkpoint

        return read_remote_checkpoint(*_hub_model(self.model.source))

    def download(self) -> Path:
        """The folder, once everything is in it. Raises HubError, CheckpointError or DiskFullError."""
        if self.folder is not None:
            self.checkpoint()  # a folder that is not there, or is none of a model, is no download
            return self.folder
        from serving.hub.pull import pull

        return pull(*_hub_model(self.model.source))


def resolve_model(name: str) -> ResolvedModel:
    """Finds what `name` means: a name of `configs/models`, a YAML path, a local folder or a Hub id."""
    if found := find_model(name):
        key, model = found
        return ResolvedModel(key, model, _folder(model.source))
    path = Path(os.path.expanduser(name))
    if path.is_dir() or not is_hub_id(name):
        if "/" not in name and not path.exists() and (meant := nearest(name, load_models(), 0.6)):
            raise CheckpointError(f"There is no model {name}. Did you mean {meant}? `onecard profiles` lists all.")
        folder = path.resolve()
        known = find_model("demo") if folder == _builtin("demo").resolve() else None
        return ResolvedModel(name, known[1] if known else _unknown_model(folder.name, None), folder)
    model = _unknown_model(name, name)
    return ResolvedModel(name, model, _folder(model.source))


def _folder(source: ModelSource) -> Path | None:
    return _builtin(source.builtin) if source.builtin else Cache(_hub_model(source)[0]).find(source.revision)


def _hub_model(source: ModelSource) -> tuple[str, str]:
    """Hub id and revision."""
    if source.hub is None:
        raise CheckpointError("The model's YAML names no source: it needs `source.hub` or `source.builtin`.")
    return source.hub, source.revision


def _builtin(name: str) -> Path:
    return Path(__file__).parent.parent / name / "model"


def _unknown_model(name: str, hub: str | None) -> Model:
    """A checkpoint that has no YAML file of its own: served under its own name, with its own sampling."""
    source = ModelSource(hub=hub, publisher="unknown", licence="unknown")
    return Model(title=name, source=source, served_model_name=(name,), default_max_tokens=1024, largest_max_tokens=4096)
