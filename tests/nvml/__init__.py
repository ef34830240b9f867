"""NVML where there is no GPU: a library that speaks its protocol (nvml.c) and tells what a card once told (record.py)."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
H200 = HERE / "h200.txt"


def build(folder: Path) -> Path:
    """Compiles the library; the folder is then what LD_LIBRARY_PATH needs. Skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here (Debian: apt install gcc), so there is no stand-in for NVML")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, HERE / "nvml.c"], check=True)
    return folder
