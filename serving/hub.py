"""From what `--model` says to a local checkpoint folder: a folder, the built-in model, or a download from the hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from serving.errors import CheckpointError, DiskFullError, HubError
from serving.profile import Model, ModelSource, find_model

# Weights as safetensors only (a pickle can run code), and what a processor and a tokenizer need.
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ResolvedModel:
    name: str
    model: Model
    folder: Path


def resolve_model(name: str, *, download: bool = True) -> ResolvedModel:
    """Finds the checkpoint that `name` means: a name of `configs/models`, a YAML path, a local folder or a Hub id.

    Downloads what is missing when `download` is set. Raises CheckpointError, HubError or DiskFullError.
    """
    if found := find_model(name):
        key, model = found
        return ResolvedModel(key, model, _folder(model.source, download))
    path = Path(name).expanduser()
    looks_like_id = _HUB_ID.fullmatch(name) and not name.startswith((".", "~"))
    if path.is_dir() or not looks_like_id:
        folder = path.resolve()
        known = find_model("demo") if folder == _builtin("demo").resolve() else None
        return ResolvedModel(name, known[1] if known else _unknown_model(folder.name, None), folder)
    model = _unknown_model(name, name)
    return ResolvedModel(name, model, _folder(model.source, download))


def _folder(source: ModelSource, download: bool) -> Path:
    if source.builtin:
        return _builtin(source.builtin)
    if source.hub is None:
        raise CheckpointError("The model's YAML names no source: it needs `source.hub` or `source.builtin`.")
    return _snapshot(source.hub, source.revision, download)


def _builtin(name: str) -> Path:
    return Path(__file__).parent / name / "model"


def _snapshot(repo_id: str, revision: str, download: bool) -> Path:
    """The local folder of a Hub model at a revision, downloaded (and resumed) with huggingface_hub's own progress."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,  # the base of what its HTTP library raises, whichever that is
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(local_only: bool) -> Path:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=_FILES, local_files_only=local_only))

    try:
        return fetch(local_only=True)
    except HFValidationError as error:
        raise CheckpointError(
            f"{repo_id!r} is neither a folder here nor a Hub id such as Qwen/Qwen3-VL-2B-Instruct."
        ) from error
    except LocalEntryNotFoundError as error:
        if not download:
            raise HubError(f"{repo_id} is not on this machine yet: `onecard pull {repo_id}` downloads it.") from error
    try:
        return fetch(local_only=False)
    except GatedRepoError as error:
        raise HubError(
            f"{repo_id} is gated: accept its licence on the hub's page, then `hf auth login` or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"The hub has no model {repo_id!r} (or it is private and needs HF_TOKEN), and there is no such folder here."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"The hub's {repo_id} has no revision {revision!r}: mend `source.revision` in its YAML."
        ) from error
    except (HTTPError, OSError, ValueError) as error:  # ValueError: an answer that is no JSON, such as a portal's page
        if getattr(error, "errno", None) == 28:  # ENOSPC
            raise DiskFullError(
                f"No space is left to download {repo_id}. Free some, or set HF_HOME to a larger disk."
            ) from error
        raise HubError(
            f"The model hub cannot be reached, and {repo_id} is not on this machine ({_cause(error)}). Check the network "
            "or the proxy, set HF_ENDPOINT to a mirror, or copy the model's folder here and give its path to --model. "
            "PROFILE=cpu MODEL=demo serves the built-in model without any download."
        ) from error


def _cause(error: BaseException) -> str:
    """The innermost cause in one line: what a person can act on."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _unknown_model(name: str, hub: str | None) -> Model:
    """A checkpoint that has no YAML file of its own: served under its own name, with its own sampling."""
    source = ModelSource(hub=hub, publisher="unknown", licence="unknown")
    return Model(title=name, source=source, served_model_name=(name,), default_max_tokens=1024, largest_max_tokens=4096)
