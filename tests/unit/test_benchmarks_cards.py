"""What `benchmarks.cards` counts and tells; and a run of it against two stand-ins for servers, with a kill."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cards, cards_kill, cards_table
from benchmarks.fleet_load import Timed, fault_of
from tests.unit.test_cards import two
from tests.unit.test_supervisor import LONG_S

FIGURES = {
    "requests_per_s": 40.0,
    "tokens_per_s": 5120.0,
    "total_ms": 1700.0,
    "first_token_ms": 300.0,
    "first_token_p99_ms": 900.0,
    "per_token_ms": 8.0,
    "per_token_p99_ms": 11.0,
    "failed": 0,
    "generator_busy": 0.4,
}
KILLED = {
    "running_there": 30,
    "failed_sent_before": 29,
    "failed_sent_after": 0,
    "answered_meanwhile": 1800,
    "meanwhile_per_s": 38.2,
    "ready_again_s": 61.0,
}
TOLD: dict[str, Any] = {
    "date": "2026-11-23",
    "versions": {"vllm": "0.26.0"},
    "machine": {"cpu": "a Xeon", "gpu": "NVIDIA H200", "gpus": "2"},
    "command": "python -m benchmarks.cards --cards 1,2",
    "picture": (1024, 768),
    "answer_tokens": 128,
    "seconds": 30.0,
    "cores_shared": False,
    "cards": [
        {"cards": 1, "loads": {"full": {"clients": 64, "figures": FIGURES}}, "by_card": [1200]},
        {
            "cards": 2,
            "loads": {"full": {"clients": 128, "figures": FIGURES | {"requests_per_s": 76.4}}},
            "by_card": [1150, 1142],
            "killed": KILLED,
        },
    ],
}


def test_a_stream_is_whole_when_it_says_that_it_is_done_and_has_no_error() -> None:
    assert fault_of(b'data: {"choices": []}\n\ndata: [DONE]\n\n') == ""
    assert fault_of(b'data: {"choices": []}\n\n') == "the stream ended early"
    error = b'data: {"error": {"message": "The engine died."}}\n\n'
    assert fault_of(b'data: {"choices": []}\n\n' + error) == "error event: The engine died."
    assert fault_of(error + b"data: [DONE]\n\n") == "error event: The engine died."
    assert fault_of(b"") == "the stream ended early"


def test_answers_are_counted_by_card_and_one_card_is_the_first() -> None:
    def sample(value: int, more: str = "", route: str = cards.ROUTE, outcome: str = "answered") -> str:
        return f'onecard_requests_total{{route="{route}",key="none",outcome="{outcome}",reason="none"{more}}} {value}\n'

    kind = "# TYPE onecard_requests_total counter\n"
    assert cards.count_by_card(kind + sample(7) + sample(3, outcome="refused") + sample(9, route="/metrics")) == {0: 7}
    several = kind + sample(7, ',card="0"') + sample(5, ',card="1"')
    assert cards.count_by_card(several) == {0: 7, 1: 5}


def test_what_a_kill_cost_is_told_by_when_a_request_was_sent_and_ended() -> None:
    requests = [
        Timed(at=8.0, first=8.5, end=9.0),
        Timed(at=9.0, first=9.5, end=10.1, failed="503: {}"),
        Timed(at=9.5, first=10.0, end=11.0),
        Timed(at=10.5, first=11.0, end=12.0, failed="ReadError"),
        Timed(at=12.0, first=12.5, end=20.0),
        Timed(at=20.0, first=20.5, end=21.0),
    ]
    told = cards_kill.aftermath(requests, killed=10.0, returned=20.0)
    assert (told["failed_sent_before"], told["failed_sent_after"]) == (1, 1)
    assert (told["answered_meanwhile"], told["meanwhile_per_s"], told["ready_again_s"]) == (2, 0.2, 10.0)
    assert (told["failures"], told["last_failure_s"]) == ({"503": 1, "ReadError": 1}, 2.0)


def test_the_tables_compare_with_the_first_number_of_cards(tmp_path: Path) -> None:
    assert cards_table.measured(tmp_path) == "Not measured yet."
    (tmp_path / "cards-h200.json").write_text(json.dumps(TOLD), "utf-8")
    text = cards_table.measured(tmp_path)
    assert "2 × NVIDIA H200, vLLM 0.26.0, 2026-11-23" in text
    assert "| 2 | 128 | 76.40 | 1.91 | 5,120 | 300 (900) | 8.00 (11.00) | 1150 + 1142 | 0 |" in text
    assert "| 2 | 30 | 29 | 0 | 1,800 | 38.20 (50% of before) | 61 s |" in text
    assert "shared" not in text
    assert "busy" not in text


def test_one_cpu_and_a_card_that_did_not_return_are_said() -> None:
    told = TOLD | {"machine": {"cpu": "a Xeon"}, "cores_shared": True}
    busy = {"full": {"clients": 128, "figures": FIGURES | {"generator_busy": 0.9}}}
    told["cards"] = [TOLD["cards"][0], {**TOLD["cards"][1], "loads": busy, "gave_up": "card 1 was given up"}]
    text = cards_table.as_table(told)
    assert text.startswith("a Xeon, vLLM 0.26.0")
    assert "shared the cores of one CPU" in text
    assert "busy 90% of the time" in text
    assert "Of 2 cards, with one killed: card 1 was given up" in text


def test_two_stand_ins_are_measured_and_one_that_is_killed_returns(tmp_path: Path) -> None:
    settings = argparse.Namespace(clients=2, seconds=1.5, rounds=2, limit=LONG_S, answer_tokens=5, picture=(64, 48))
    with two(tmp_path) as running:
        *_, (found, plan) = cards.measure(running.port, running.process.pid, 2, settings, tmp_path)
    loads, killed = found["loads"], found["killed"]
    figures = loads["full"]["figures"]
    assert (loads["full"]["clients"], figures["failed"], figures["answer_tokens"]) == (4, 0, 5)
    assert {name: len(load["rounds"]) for name, load in loads.items()} == dict.fromkeys(
        ("full", "alone", "quarter", "arrivals"), 2
    )
    assert plan["capacity"]["max_num_seqs"] > 0
    assert sum(found["by_card"]) == figures["requests"]
    assert min(found["by_card"]) > 0
    # What ran there, and what had been accepted there and not yet been read.
    assert killed["failed_sent_before"] + killed["failed_sent_after"] <= loads["full"]["clients"]
    assert killed["answered_meanwhile"] > 0
    told = TOLD | {"cards": [found]}
    assert "| 2 | 4 |" in cards_table.as_table(told)


def test_a_server_that_does_not_start_is_said_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", "")  # restored afterwards
    assert cards.main(["--cards", "1", "--", "--profile", "none"]) == 1
    assert "There is no profile 'none'" in capsys.readouterr().err
