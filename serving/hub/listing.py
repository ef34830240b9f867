"""What a hub says that a model consists of, at one commit; and the copy kept here, which pins that commit.

The first plan or download of a revision such as `main` asks for its commit; every later one uses what was kept, so that
what was planned is what is downloaded, and no hub is asked twice.
"""

import contextlib
import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.machine.state_dir import state_dir

# Weights as safetensors only (a pickle can run code), and what a processor and a tokenizer need. No code.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
# What a hub says becomes a path on this machine, so it is held to what it can be.
_NAME = r"\w[\w.+ -]*"
_COMMIT = r"^[0-9a-f]{40}$"
_CHECKSUM = r"^([0-9a-f]{40}|[0-9a-f]{64})$"


class RemoteFile(BaseModel):
    """`checksum` is the SHA-256 (64 digits) or, of a small file that git itself holds, the SHA-1 of its git blob (40).
    `revision` is the commit to ask the hub with."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(pattern=f"^{_NAME}$")]
    size: Annotated[int, Field(ge=0)]
    checksum: Annotated[str, Field(pattern=_CHECKSUM)]
    revision: str


class Listing(BaseModel):
    """The files that are served from, and no others. `revision` is what was asked for, `commit` what it meant."""

    model_config = ConfigDict(frozen=True)

    source: Literal["huggingface", "modelscope"]
    repo_id: str
    revision: str
    commit: Annotated[str, Field(pattern=_COMMIT)]
    files: tuple[RemoteFile, ...]


def is_wanted(name: str) -> bool:
    """Whether a file of that name belongs to what is served. Folders hold the same model for other programs."""
    return re.fullmatch(_NAME, name) is not None and any(fnmatchcase(name, pattern) for pattern in _WANTED)


def is_hub_id(name: str) -> bool:
    """Whether it can be one, and not a path."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith((".", "~"))


def kept_listing(repo_id: str, revision: str) -> Listing | None:
    """What `keep_listing` kept; None where there is none, or it can no longer be read."""
    with contextlib.suppress(OSError, ValidationError):
        return Listing.model_validate_json(_file(repo_id, revision).read_bytes())
    return None


def keep_listing(listing: Listing) -> None:
    """A folder that cannot be written costs the next plan a few requests, and nothing else."""
    write_whole(_file(listing.repo_id, listing.revision), listing.model_dump_json(indent=1).encode())


def model_dir(repo_id: str) -> Path:
    """Where what is known of a model is kept."""
    return state_dir() / "hub" / repo_id.replace("/", "--")


def write_whole(file: Path, content: bytes) -> None:
    """Writes what is only a convenience: a reader never sees half of it, and no failure is one."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_bytes(content)
        temporary.replace(file)


def _file(repo_id: str, revision: str) -> Path:
    return model_dir(repo_id) / f"{quote(revision, safe='')}.json"
