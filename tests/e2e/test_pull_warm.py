"""`onecard pull --warm` on a real vLLM: it starts the model once, says which step runs, and leaves nothing behind."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ONECARD, START_S


@pytest.mark.long
def test_a_warm_pull_starts_the_model_once_and_ends(tmp_path: Path) -> None:
    environment = os.environ | {"ONECARD_STATE_DIR": str(tmp_path / "state")}
    command = [*ONECARD, "pull", "demo", "--warm", "--profile", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, env=environment)
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "config.json").is_file()
    assert "loading the weights" in done.stderr
    assert "the caches are built" in done.stderr
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.long
def test_what_does_not_fit_is_not_started(tmp_path: Path) -> None:
    environment = os.environ | {"ONECARD_STATE_DIR": str(tmp_path / "state")}
    command = [*ONECARD, "pull", "demo", "--warm", "--profile", "cpu", "--", "--max-model-len", "999999"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, env=environment)
    assert done.returncode == 2
    assert "more than the 4,096 tokens that the model knows" in done.stderr
