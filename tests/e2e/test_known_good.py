"""The known-good question of `onecard upgrade`, asked of this very onecard: a real vLLM on a spare port."""

import sys
from pathlib import Path

import pytest

from serving.setup.pip import Screen
from serving.upgrade.check import ask_known_good


@pytest.mark.long
def test_this_version_sees_a_red_square(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onecard = tmp_path / "onecard"
    onecard.write_text(f'#!/bin/sh\nexec {sys.executable} -m serving "$@"\n')
    onecard.chmod(0o755)
    ask_known_good(onecard, "cpu", "", Screen(sys.stderr))
    assert "sees a red square and says" in capsys.readouterr().err
