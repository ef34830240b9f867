"""The recorder of NVML's answers, run on the stand-in for NVML: what it writes is what the stand-in tells from."""

import os
import subprocess
import sys
from pathlib import Path

import pynvml

from tests import nvml

ROOT = Path(__file__).parents[2]


def test_a_recording_tells_again_what_was_recorded(tmp_path: Path) -> None:
    (alone := tmp_path / "alone").mkdir()
    (alone / "pynvml.py").symlink_to(pynvml.__file__)
    # -S: of all packages that one is there.
    environment = os.environ | {
        "PYTHONPATH": f"{alone}:{ROOT}",
        "LD_LIBRARY_PATH": str(nvml.build(tmp_path)),
        "ONECARD_TEST_NVML": str(nvml.H200),
    }
    done = subprocess.run(
        [sys.executable, "-S", "-m", "tests.nvml.record", str(tmp_path / "h200")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert nvml.answers(tmp_path / "h200" / "idle.txt") == nvml.answers()
    failed = nvml.answers(tmp_path / "h200" / "errors.txt")
    assert failed["nvmlEventSetWait_v2"] == "!10"
    if done.returncode:  # no CUDA here to make a load with
        assert "nothing was recorded under load" in done.stderr
    else:
        assert (tmp_path / "h200" / "load.txt").is_file()
