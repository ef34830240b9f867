"""Where onecard keeps what outlives a command: one folder a port, with the running server, its log and its timings."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import DiskFullError, OnecardError

_LONGEST_SOCKET = 107  # unix(7)
_LONGEST_IPC_DIR = _LONGEST_SOCKET - len("/eb85917f-5d8b-47e2-a105-e6c527a29657")  # as vLLM calls them


def state_dir() -> Path:
    """`ONECARD_STATE_DIR`, else the XDG state folder of this user."""
    if override := os.environ.get("ONECARD_STATE_DIR"):
        return Path(override)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "onecard"


def run_dir(port: int) -> Path:
    """The folder of the server on that port."""
    return state_dir() / str(port)


def make_run_dir(port: int) -> Path:
    """Creates the folder. Raises DiskFullError or OnecardError when it cannot be written."""
    folder = run_dir(port)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / ".probe"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(f"No space is left on the disk of {folder}, where the log goes. Free some.") from error
        raise OnecardError(
            f"{folder} cannot be written ({error.strerror}). Set ONECARD_STATE_DIR to a folder that can."
        ) from error
    return folder


@contextlib.contextmanager
def ipc_dir(port: int, card: int = 0) -> Iterator[Path]:
    """A folder for vLLM's sockets, gone afterwards. In the temporary folder, since a socket's path has to be short;
    by port and card, so that what a killed supervisor left is cleared by the next."""
    folder = Path(tempfile.gettempdir()) / f"onecard-{os.getuid()}-{port}{f'-{card}' if card else ''}"
    if len(os.fsencode(folder)) > _LONGEST_IPC_DIR:
        raise OnecardError(
            f"{folder} is too long for the sockets in it, whose paths have {_LONGEST_SOCKET} bytes at most; set TMPDIR to a "
            "shorter folder, as /tmp."
        )
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise OnecardError(f"{folder} cannot be made ({error.strerror}); set TMPDIR to a folder that can.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def card_dir(home: Path, card: int) -> Path:
    """The folder of one of several cards' server; the first one's is that of the port."""
    return home / f"card-{card}" if card else home


def log_file(port: int, card: int = 0) -> Path:
    return card_dir(run_dir(port), card) / "server.log"


def write_json(file: Path, value: Any) -> None:
    """Replaces the file as a whole, so that a reader never sees half of it."""
    write_text(file, json.dumps(value, indent=1))


def write_text(file: Path, text: str) -> None:
    """The same for any text."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def read_json(file: Path) -> Any:
    """The file's value; None when it is missing or unreadable."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_text(encoding="utf-8"))
    return None
