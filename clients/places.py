"""Where a file lies that a person has named."""

import os
from pathlib import Path


def place(name: str | os.PathLike[str]) -> Path:
    """`~/` is the home folder; a name that merely begins with `~`, as those of temporary files do, stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no user of that name
        return Path(name)
