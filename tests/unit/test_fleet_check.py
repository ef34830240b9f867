"""The check of the simulation: what it makes of what was measured."""

import pytest

from benchmarks.fleet_check import figures, mean, summary, table
from benchmarks.fleet_load import Timed
from serving.fleet.cards import Measured


def test_figures_of_a_run() -> None:
    answers = [Timed(at=0.0, first=0.5, end=1.0), Timed(at=1.0, first=1.5, end=3.0)]
    assert figures(answers) == pytest.approx(
        {"requests_per_s": 2 / 3, "answer_p50_s": 1.0, "answer_p90_s": 2.0, "first_token_p50_s": 0.5}
    )


def test_what_is_predicted_with_lies_between_before_and_after() -> None:
    before = Measured(delay_s=0.1, prompt_s=0.2, prompt_tokens=97, step_s=0.01, sequence_s=0.0)
    after = Measured(delay_s=0.3, prompt_s=0.4, prompt_tokens=97, step_s=0.03, sequence_s=0.002)
    between = mean([before, after])
    assert (between.delay_s, between.prompt_s) == pytest.approx((0.2, 0.3))
    assert (between.step_s, between.sequence_s) == pytest.approx((0.02, 0.001))
    assert between.prompt_tokens == 97


def test_a_drift_between_rounds_is_no_error_of_the_prediction() -> None:
    def a_round(speed: float) -> dict[str, dict[str, dict[str, float]]]:
        names = ("requests_per_s", "answer_p50_s", "answer_p90_s", "first_token_p50_s")
        return {"2 clients": {"predicted": dict.fromkeys(names, 1.1 * speed), "measured": dict.fromkeys(names, speed)}}

    told = summary([a_round(1.0), a_round(3.0), a_round(2.0)])
    assert told["2 clients"]["off"]["requests_per_s"] == pytest.approx(0.1)
    assert told["2 clients"]["measured"]["requests_per_s"] == 2.0
    assert "2.2 / 2 (+10%)" in table(told)
