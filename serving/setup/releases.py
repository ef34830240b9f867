"""An installation that can be upgraded, such as /opt/onecard: its versions side by side, and which of them is in use.

    PREFIX/releases/0.1.0-1a2b3c4d/     one version: its files and its .venv, and `.installed` once it is whole
    PREFIX/current  -> releases/...     what runs
    PREFIX/previous -> releases/...     what ran before, to go back to
    PREFIX/bin/onecard -> ../current/.venv/bin/onecard

The links are all that a switch changes, one rename each. Owns this layout; what is asked of a version before a switch is
`serving/upgrade/`'s business.
"""

import hashlib
import os
import shutil
from pathlib import Path

from serving.errors import UsageError
from serving.setup.project import version

PARTS = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "onecard-*.whl",
    "onecard-*.dist-info",
    "serving",
    "clients",
    "configs",
)
"""What a version consists of, in a source tree or beside an unpacked wheel."""
_KEPT = "releases"


class Releases:
    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix

    @property
    def current(self) -> str:
        """The name of the version in use; empty where there is none."""
        return self._linked("current")

    @property
    def previous(self) -> str:
        return self._linked("previous")

    def folder(self, name: str) -> Path:
        return self.prefix / _KEPT / name

    def is_whole(self, name: str) -> bool:
        return bool(name) and (self.folder(name) / ".installed").is_file()

    def add(self, source: Path) -> str:
        """The name of the version that `source` holds, whose files are copied unless they are here; not yet installed.

        The same files are the same version. Raises UsageError where there is no onecard in `source`.
        """
        number = version(source)
        if not number:
            raise UsageError(f"{source} holds no onecard: there is no version in serving/__init__.py.")
        files = sorted(file for part in PARTS for found in source.glob(part) for file in _files(found))
        digest = hashlib.sha256()
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{content} {file.relative_to(source)}\n".encode())
        name = f"{number}-{digest.hexdigest()[:8]}"
        if not self.folder(name).is_dir():
            whole = self.folder(f".{name}.{os.getpid()}")
            for file in files:
                place = whole / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)
            whole.rename(self.folder(name))
        return name

    def mark_whole(self, name: str) -> None:
        (self.folder(name) / ".installed").touch()

    def switch(self, name: str) -> None:
        """Puts that version in use; the one before is the one to go back to."""
        before = self.current
        if before == name:
            return
        if self.is_whole(before):
            self._link("previous", f"{_KEPT}/{before}")
        self._link("current", f"{_KEPT}/{name}")
        self._link("bin/onecard", "../current/.venv/bin/onecard")

    def take_back(self, current: str, previous: str) -> None:
        """Undoes a switch: the version that failed is not the one to go back to."""
        self.switch(current)
        if previous:
            self._link("previous", f"{_KEPT}/{previous}")
        else:
            (self.prefix / "previous").unlink(missing_ok=True)

    def prune(self) -> list[str]:
        """Removes all but the version in use and the one before it; the names of those that went."""
        kept = {self.current, self.previous}
        gone = [folder for folder in (self.prefix / _KEPT).iterdir() if folder.name not in kept]
        for folder in gone:
            shutil.rmtree(folder)
        return sorted(folder.name for folder in gone)

    def _linked(self, name: str) -> str:
        try:
            return Path(os.readlink(self.prefix / name)).name
        except OSError:
            return ""

    def _link(self, name: str, target: str) -> None:
        """Replaces the link as a whole: whoever starts onecard meanwhile gets the one or the other."""
        link = self.prefix / name
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.symlink_to(target)
        temporary.replace(link)


def _files(found: Path) -> list[Path]:
    if not found.is_dir():
        return [found]
    return [file for file in found.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
