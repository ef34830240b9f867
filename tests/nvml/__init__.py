"""NVML where there is no GPU: a library that speaks its protocol (nvml.c) and tells what a card once told (record.py)."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


# The recording of a real card under load (record.py); beside it the same card idle, and with which errors it answers.
H200 = HERE / "h200" / "load.txt"


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
