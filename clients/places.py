"""Where a file lies that a person has named."""

import os
from pathlib import Path


def place(name: str | os.PathLike[str]) -> Path:
    """`~/` is the home folder; a name that merely begins with `~`, as those of temporary files do, stays as it is."""
    return Path(os.path.expanduser(name))  # Path.expanduser raises where there is no user of that name


def is_file(name: str) -> bool:
    """False, too, for what is longer than a file's name can be, as web addresses and data URLs are, of which pathlib complains;
    and for standard input."""
    return name != "-" and os.path.isfile(place(name))
