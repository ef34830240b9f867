"""What `benchmarks.sleep` makes of its rounds; the rounds themselves are for a machine with a GPU."""

from typing import Any

import pytest

from benchmarks import sleep


def a_round(waking_s: float, awake: int | None, asleep: int | None) -> dict[str, Any]:
    return {
        "awake_answer_s": 0.1,
        "sleep_s": 2.0,
        "waking_answer_s": waking_s,
        "awake_mib": awake,
        "asleep_mib": asleep,
    }


def test_what_is_given_back_is_the_difference_and_what_is_left_is_ours() -> None:
    rounds = [a_round(20, 9000, 510), a_round(30, 9000, 500), a_round(25, 9000, 500)]
    found = sleep.summary(500, 41.23, rounds, [33.0, 35.0])
    assert (found["given_back_mib"], found["left_mib"], found["waking_answer_s"]) == (8500, 0, 25)
    assert (found["first_start_s"], found["exchange_s"]) == (41.2, 34.0)
    table = sleep.as_table(found).splitlines()
    assert "given back                         8,500 MiB" in table
    assert "an answer that wakes it               25 s" in table


def test_without_a_gpu_the_seconds_are_told_alone() -> None:
    found = sleep.summary(None, 30.0, [a_round(20, None, None)], [])
    assert (found["given_back_mib"], found["exchange_s"]) == (None, None)
    assert "MiB" not in sleep.as_table(found)


def test_a_server_that_does_not_start_is_said_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", "")  # restored afterwards
    assert sleep.main(["-n", "1", "--", "--profile", "none"]) == 1
    assert "There is no profile 'none'" in capsys.readouterr().err
