"""Setup as a user starts it: real processes, a real `python -m venv`, a package index that hangs, one that is closed."""

import ast
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.setup.environment import Stamp, steps_for
from serving.setup.machine import gpu_signs
from serving.setup.project import project_digest

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "configs" / "profiles"


def test_setup_runs_before_anything_is_installed() -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import serving.bootstrap, serving.setup.command"
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True)


def test_the_refusal_of_an_old_python_can_be_read_by_it() -> None:
    for name in ("__init__.py", "bootstrap.py"):
        ast.parse((ROOT / "serving" / name).read_text(), feature_version=(3, 7))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup reads of a checkout, by links, with a `.venv` and a `.cache` of its own."""
    for name in ("serving", "configs"):
        (tmp_path / name).mkdir()
    for path in (ROOT / "serving").glob("*.py"):
        (tmp_path / "serving" / path.name).symlink_to(path)
    (tmp_path / "serving" / "setup").mkdir()
    for path in (ROOT / "serving" / "setup").glob("*.py"):
        (tmp_path / "serving" / "setup" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "configs" / "profiles").symlink_to(PROFILES)
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    return tmp_path


@pytest.fixture
def silent_index() -> Iterator[int]:
    """The port of a package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start_setup(checkout: Path, port: int) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    index = {"PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple", "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "serving.bootstrap", "--profile", "cpu"]
    return subprocess.Popen(
        command, cwd=checkout, env=variables | index, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(checkout: Path, step: str) -> None:
    deadline = time.monotonic() + 120
    while Stamp.read(checkout / ".venv").running != step:
        assert time.monotonic() < deadline, f"setup never came to the step {step}"
        time.sleep(0.05)


def processes_of(checkout: Path) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_text())
        except OSError:  # it has ended meanwhile
            continue
    return [command for command in commands if str(checkout / ".venv") in command]


def test_an_interrupted_setup_stops_cleanly_and_goes_on_where_it_was(checkout: Path, silent_index: int) -> None:
    first = start_setup(checkout, silent_index)
    wait_for(checkout, "pip")
    second = start_setup(checkout, silent_index)
    assert second.stderr is not None
    assert "waiting until it has finished" in second.stderr.readline()
    for setup in (second, first):
        setup.send_signal(signal.SIGINT)
        _, said = setup.communicate(timeout=20)
        assert setup.returncode == 130
        assert "goes on from here" in said
        assert "Traceback" not in said
    assert processes_of(checkout) == []
    made = (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns

    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    third = start_setup(checkout, closed)
    _, said = third.communicate(timeout=120)
    assert third.returncode == 9
    assert "does not reach its package index" in said
    assert str(closed) in said
    assert "Traceback" not in said
    assert (checkout / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == made


def test_an_environment_that_is_up_to_date_is_left_alone_in_silence(checkout: Path) -> None:
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    stamp = Stamp(root=str(checkout), variant="cpu", project=project_digest(checkout), gpu_signs=gpu_signs())
    replace(stamp, done=steps_for("cpu")).write(venv)
    command = [sys.executable, "-m", "serving.bootstrap", "--profile", "cpu"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The part of NVIDIA's library that setup calls, for machines without the card: a driver and one GPU.
NVML = """
#include <stdlib.h>
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code ? "Unknown" : "Success"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, getenv("NVML_DRIVER"), size); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &strncpy; return index; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    if (device != (void *)&strncpy) return 1;
    strncpy(text, "NVIDIA GeForce RTX 4090", size);
    return 0;
}
"""


@pytest.fixture
def nvml(tmp_path: Path) -> dict[str, str]:
    """Environment variables under which `libnvidia-ml.so.1` is the one above."""
    compiler = shutil.which("cc") or pytest.skip("no C compiler here")
    folder = tmp_path / "nvml"
    folder.mkdir()
    (folder / "nvml.c").write_text(NVML)
    command = [compiler, "-shared", "-fPIC", "-o", "libnvidia-ml.so.1", "nvml.c"]
    subprocess.run(command, cwd=folder, check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "NVML_DRIVER": "580.95.05"}


def test_the_gpu_and_its_driver_are_read_from_nvidias_library(nvml: dict[str, str]) -> None:
    command = [sys.executable, "-c", "from serving.setup.machine import read_gpu; print(read_gpu())"]
    done = subprocess.run(command, cwd=ROOT, env=nvml, capture_output=True, text=True, check=True)
    assert "names=('NVIDIA GeForce RTX 4090',), driver='580.95.05', cards=1, trouble=''" in done.stdout


def test_an_old_driver_ends_setup_before_it_begins(checkout: Path, nvml: dict[str, str]) -> None:
    command = [sys.executable, "-m", "serving.bootstrap", "--profile", "rtx4090"]
    done = subprocess.run(
        command, cwd=checkout, env=nvml | {"NVML_DRIVER": "570.172.08"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert "NVIDIA GeForce RTX 4090 here runs with 570.172.08" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (checkout / ".venv").exists()
