"""Where the bytes of a checkpoint come from: one small interface, and the folder of this machine that has it.

What the bytes mean is `checkpoint.py`'s and `tensors.py`'s question; the files of a model on a hub are `hub`'s.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from serving.errors import CheckpointError


class Files(Protocol):
    """The files of one checkpoint, by their names. Whatever cannot be had is refused with an OnecardError."""

    @property
    def where(self) -> str:
        """What a person calls the place, before a slash and the file's name: a folder, or a Hub id."""

    @property
    def remedy(self) -> str:
        """The sentence that says what to do when one of the files turns out to be broken."""

    def names(self) -> Collection[str]: ...

    def size(self, name: str) -> int:
        """Bytes of one file."""

    def read(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer where the file ends before."""


class Folder:
    """A folder of this machine."""

    remedy = "Download it again."

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)

    def names(self) -> Collection[str]:
        """Raises CheckpointError when there is no such folder."""
        if not self.path.is_dir():
            raise CheckpointError(
                f"There is no model folder {self.path}. --model takes a local folder, a Hub id such as "
                "Qwen/Qwen3-VL-2B-Instruct, or one of the names that `onecard profiles` lists."
            )
        try:
            return {file.name for file in self.path.iterdir()}
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}.") from error

    def size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError as error:
            raise self._unreadable(name, error) from error

    def read(self, name: str, start: int, length: int) -> bytes:
        try:
            with (self.path / name).open("rb") as stream:
                stream.seek(start)
                return stream.read(length)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path / name} cannot be read: {error.strerror}. {self.remedy}")
