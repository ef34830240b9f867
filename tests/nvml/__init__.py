"""NVML where there is no GPU: a library that speaks its protocol (nvml.c) and tells what a card once told (record.py)."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def recorded(what: str) -> Path:
    """The recording of a real card, `idle` or `load` (record.py); the figures of its data sheet until there is one."""
    file = HERE / "h200" / f"{what}.txt"
    return file if file.is_file() else HERE / "h200.txt"


H200 = recorded("load")


def answers(file: Path = H200) -> dict[str, str]:
    """The lines of a recording."""
    lines = file.read_text("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if not line.startswith("#"))


def build(folder: Path) -> Path:
    """Compiles the library; the folder is then what LD_LIBRARY_PATH needs. Skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        import pytest  # not above: record.py runs where there is none

        pytest.skip("no C compiler here (Debian: apt install gcc), so there is no stand-in for NVML")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, HERE / "nvml.c"], check=True)
    return folder
