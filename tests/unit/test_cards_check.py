"""Predictions of several cards from a measurement of one, where the measurement is one that the simulation has made."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import cards_check, cards_table
from serving.cli import app
from serving.fleet.cards import Measured
from serving.fleet.demand import read_measured
from serving.planning.plan import Plan
from tests.unit.test_benchmarks_cards import FIGURES, TOLD

TIMES = Measured(delay_s=0.02, prompt_s=0.015, prompt_tokens=784, step_s=0.003, sequence_s=0.00002)
TOKENS = 32


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """As `cards` writes it of one card and of two, which have these times."""
    done = CliRunner().invoke(app, ["plan", "--profile", "rtx4090", "--model", "qwen3-vl-2b-awq", "--json"])
    plan = json.loads(done.stdout)

    def measured(cards: int, load: dict[str, Any]) -> dict[str, Any]:
        load["rounds"] = [FIGURES] * 2
        return load | {"figures": FIGURES | cards_check.predict(Plan.model_validate(plan), TOKENS, TIMES, cards, load)}

    def entry(cards: int) -> dict[str, Any]:
        loads: dict[str, dict[str, Any]] = {
            "full": {"clients": 32 * cards, "seconds": 3.0},
            "alone": {"clients": 1, "seconds": 1.0},
            "quarter": {"clients": 8 * cards, "seconds": 1.0},
            "arrivals": {"per_s": 20.0 * cards, "seconds": 1.5},
        }
        loads = {name: measured(cards, load) for name, load in loads.items()}
        return {"cards": cards, "prompt_tokens": 784, "by_card": [1] * cards, "loads": loads}

    return TOLD | {"plan": plan, "answer_tokens": TOKENS, "cards": [entry(1), entry(2)]}


def written(folder: Path, told: dict[str, Any]) -> Path:
    file = folder / "cards-test.json"
    file.write_text(json.dumps(told), encoding="utf-8")
    return file


def test_one_card_foretells_two(told: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, told)
    assert cards_check.main([str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert cards_table.worst(found) < 0.05
    used = [name for each in found["cards"] for name, load in each["loads"].items() if load["calibrated"]]
    assert used == ["full", "alone"]
    said = capsys.readouterr().out
    assert "| 1 | 1 client \\* |" in said
    assert "| 2 | 64 clients |" in said
    # The document's tables have it, and so can fleet.yaml.
    assert said.strip() in cards_table.measured(tmp_path)
    assert read_measured(file).prompt_s == pytest.approx(TIMES.prompt_s, rel=0.1)


def test_two_cards_that_are_slower_than_one_says_are_told(told: dict[str, Any], tmp_path: Path) -> None:
    slower = copy.deepcopy(told)
    slower["cards"][1]["loads"]["full"]["figures"]["requests_per_s"] *= 0.7
    file = written(tmp_path, slower)
    assert cards_check.main([str(file)]) == 1
    assert "(+43%)" in cards_table.measured(tmp_path)
    # Two servers on the cores of one CPU are not two cards.
    assert cards_check.main([str(written(tmp_path, slower | {"cores_shared": True}))]) == 0
    assert "nothing was to be predicted" in cards_table.measured(tmp_path)


def test_what_cannot_be_checked_is_said(
    told: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    impossible = copy.deepcopy(told)
    impossible["cards"][0]["loads"]["full"]["figures"]["requests_per_s"] = 5000.0
    for text, words in (
        (json.dumps(impossible), "5000 requests a second were measured"),
        (json.dumps(told | {"answer_tokens": 1}), "--answer-tokens 2 or more"),
        (json.dumps(TOLD), "KeyError"),
        ("{", "JSONDecodeError"),
    ):
        file = tmp_path / "cards-test.json"
        file.write_text(text, encoding="utf-8")
        assert cards_check.main([str(file)]) == 1
        assert words in capsys.readouterr().err
        assert file.read_text(encoding="utf-8") == text
    assert cards_check.main([str(tmp_path / "none.json")]) == 1
