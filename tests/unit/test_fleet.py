"""Placement advice: the queueing against formulas that are known, the choice, and every way to write the file wrong."""

import json
import random
import statistics
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from serving.cli import app
from serving.errors import ConfigError, UsageError
from serving.fleet.advise import advise
from serving.fleet.cards import TENSOR_CORES, Service, peak_tflops
from serving.fleet.demand import read_fleet
from serving.fleet.describe import describe
from serving.fleet.simulate import lengths, open_arrivals, simulate_closed, simulate_open
from serving.planning.profile import configs_dir, load_profiles

CARD = Service(
    delay_s=0.01, prompt_s=0.1, prompt_tokens=800, step_s=0.01, sequence_s=0.001, at_once=8, queue=16, budget=2048,
    source="a test",
)  # fmt: skip
EXAMPLE = configs_dir() / "fleet.example.yaml"


def service(**changes: float) -> Service:
    return Service(**(vars(CARD) | changes))


def written(folder: Path, **changes: object) -> Path:
    given = yaml.safe_load(EXAMPLE.read_text()) | changes
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump(given))
    return file


def test_one_client_waits_for_its_own_work_alone() -> None:
    outcome = simulate_closed([CARD], clients=1, each=5, length=lambda: 20)
    first, whole = CARD.idle_s(20)
    assert outcome.firsts_s() == pytest.approx([first] * 5)
    assert outcome.totals_s() == pytest.approx([whole] * 5)


def test_one_server_at_a_time_waits_as_pollaczek_and_khinchine_say() -> None:
    """M/D/1: the mean wait is ρ · s / (2 · (1 - ρ)), for a server that takes s seconds for everyone."""
    queue = service(delay_s=0.0, step_s=0.0, sequence_s=0.0, at_once=1, queue=10**6, budget=800)
    for load in (0.3, 0.7):
        rng = random.Random(7)
        arrivals = open_arrivals(load / queue.prompt_s, 3000.0, lambda: 1, rng)
        waits = simulate_open([queue], arrivals, warm_s=100.0).waits_s()
        assert statistics.mean(waits) == pytest.approx(load * queue.prompt_s / (2 * (1 - load)), rel=0.1)


def test_a_full_batch_answers_as_many_as_it_can() -> None:
    outcome = simulate_closed([CARD], clients=12, each=60, length=lambda: 40)
    assert outcome.requests_per_s == pytest.approx(CARD.most_per_s(40), rel=0.1)
    two = simulate_closed([CARD, CARD], clients=24, each=60, length=lambda: 40)
    assert two == simulate_closed([CARD, CARD], clients=24, each=60, length=lambda: 40)
    assert two.requests_per_s == pytest.approx(2 * outcome.requests_per_s, rel=0.1)


def test_a_prompt_longer_than_a_step_is_taken_in_several() -> None:
    long = service(prompt_tokens=5000)
    assert simulate_closed([long], 1, 1, lambda: 2).firsts_s() == pytest.approx([long.idle_s(2)[0]], rel=0.05)


@settings(max_examples=40, deadline=None)
@given(
    per_s=st.floats(0.1, 40),
    at_once=st.integers(1, 8),
    queue=st.integers(0, 10),
    budget=st.integers(100, 4000),
    replicas=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_request_is_answered_once_or_refused(
    per_s: float, at_once: int, queue: int, budget: int, replicas: int, seed: int
) -> None:
    rng = random.Random(seed)
    each = [service(at_once=at_once, queue=queue, budget=budget)] * replicas
    arrivals = list(open_arrivals(per_s, 60 / per_s, lengths(10, 0.5, rng), rng))
    outcome = simulate_open(each, iter(arrivals), seed=seed)
    assert len(outcome.requests) == len(arrivals)
    for request in outcome.answered:
        assert request.given == request.tokens
        assert request.at <= request.began < request.first <= request.end
    assert all(0 <= share <= 1 + 1e-9 for share in outcome.busy)


def test_answers_have_the_length_and_the_spread_that_is_asked_for() -> None:
    length = lengths(128, 0.5, random.Random(1))
    drawn = [length() for _ in range(5000)]
    assert statistics.mean(drawn) == pytest.approx(128, rel=0.05)
    assert statistics.stdev(drawn) == pytest.approx(64, rel=0.1)
    assert {lengths(128, 0, random.Random(1))() for _ in range(9)} == {128}


def test_the_example_is_met_and_told() -> None:
    advice = advise(read_fleet(EXAMPLE))
    assert advice.meets
    assert advice.meets_with_one_machine_failed
    assert advice.at_peak.requests_per_s == pytest.approx(advice.asked_per_s, rel=0.05)
    assert advice.at_peak.answer_s.wanted <= 8
    told = describe(advice)
    for words in ("derived, not measured", "one machine failed", "Poisson", "503 with Retry-After"):
        assert words in told


def test_more_work_takes_more_cards(tmp_path: Path) -> None:
    def replicas(pictures: int) -> int:
        file = written(
            tmp_path,
            cards=[{"profile": "rtx4090", "count": 8}],
            models=["qwen3-vl-2b-awq"],
            survive_one_machine=False,
            demand={"pictures_per_hour": pictures, "answer_tokens": 32, "answer_spread": 0},
        )
        return advise(read_fleet(file)).placements[0].replicas

    assert 1 == replicas(1000) < replicas(60_000)


def test_a_card_named_twice_is_two_cards(tmp_path: Path) -> None:
    machine = {"profile": "rtx3060", "count": 2, "per_machine": 2}
    demand = {"pictures_per_hour": 6000, "answer_tokens": 128}
    once = written(tmp_path, cards=[{**machine, "count": 4}], models=["qwen3-vl-2b-awq"], demand=demand)
    one = advise(read_fleet(once))
    twice = written(tmp_path, cards=[machine, machine], models=["qwen3-vl-2b-awq"], demand=demand)
    two = advise(read_fleet(twice))
    assert sum(each.replicas for each in two.placements) == sum(each.replicas for each in one.placements) > 1
    assert all(0 <= each.spare <= 2 for each in two.placements)


def test_what_cannot_be_met_says_what_would(tmp_path: Path) -> None:
    few = written(tmp_path, cards=[{"profile": "rtx3060", "count": 1}], models=["qwen3-vl-2b-awq"])
    done = CliRunner().invoke(app, ["plan", "--fleet", str(few), "--json"])
    advice = json.loads(done.stdout)
    assert done.exit_code == 3
    assert advice["reachable"]
    assert "cards of rtx3060 instead of 1" in advice["would_do"][0]["what"]
    hasty = written(tmp_path, wanted={"answer_s": 0.1}, models=["qwen3-vl-2b-awq"])
    done = CliRunner().invoke(app, ["plan", "--fleet", str(hasty)])
    assert done.exit_code == 3
    assert "when nobody else asks" in done.stdout


def test_each_mistake_in_the_file_is_named(tmp_path: Path) -> None:
    for changes, words in (
        ({"cards": [{"profile": "rtx3o60", "count": 1}]}, r"no profile 'rtx3o60'.*Did you mean"),
        ({"cards": [{"profile": "rtx3060", "count": 0}]}, r"`cards.0.count`.*greater than or equal to 1.*it is 0"),
        ({"cards": []}, r"`cards`.*at least 1"),
        ({"cards": [{"profile": "cpu", "count": 1}]}, "no times can be derived"),
        ({"demand": {"pictures_per_hour": 0}}, r"`demand.pictures_per_hour`.*greater than 0"),
        ({"demand": {"pictures_per_hour": 9, "picture": [0, 768]}}, r"`demand.picture.0`.*greater than 0"),
        ({"demand": {"pictures_per_hour": 9, "pictures_per_request": 1000}}, "takes requests of 1000 picture"),
        ({"demand": {"pictures_per_hour": 9, "answer_tokens": 1_000_000}}, "1000000 tokens of answer"),
        ({"models": ["qwen9"]}, "no model or family 'qwen9'"),
        ({"modles": ["qwen3-vl-2b"]}, r"unknown key `modles`.*Did you mean `models`"),
        ({"models": ["qwen3-vl-8b"], "cards": [{"profile": "rtx4060-laptop", "count": 1}]}, "rtx4060-laptop|fits"),
    ):
        with pytest.raises(ConfigError, match=words):  # noqa: PT012
            found = advise(read_fleet(written(tmp_path, **changes)))
            raise ConfigError(describe(found))
    with pytest.raises(UsageError, match="any fleet would do"):
        read_fleet(written(tmp_path, wanted={}))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_fleet(tmp_path / "nothing.yaml")


def test_a_measured_card_counts_as_it_was_measured(tmp_path: Path) -> None:
    times = {"delay_s": 0.02, "prompt_s": 0.05, "prompt_tokens": 120, "step_s": 0.005, "sequence_s": 0.001}
    (tmp_path / "cpu.json").write_text(json.dumps({"service": times}))
    cards = [{"profile": "cpu", "count": 2, "measured": str(tmp_path / "cpu.json")}]
    demand = {"pictures_per_hour": 3600, "answer_tokens": 16, "answer_spread": 0}
    advice = advise(read_fleet(written(tmp_path, cards=cards, models=["demo"], demand=demand)))
    assert advice.meets
    assert advice.placements[0].source.startswith("measured:")
    assert advice.placements[0].idle.first_token_s == pytest.approx(0.076)
    (tmp_path / "cpu.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no result of benchmarks\.fleet_check"):
        advise(read_fleet(written(tmp_path, cards=cards, models=["demo"])))


def test_the_speed_of_every_card_is_known() -> None:
    """What `onecard plan --fleet` needs beyond the profile: the tensor cores."""
    assert set(TENSOR_CORES) == {name for name, profile in load_profiles().items() if profile.device == "cuda"}


@pytest.mark.parametrize(
    ("card", "tflops"),
    [
        # NVIDIA's white papers GA102, Ada and RTX Blackwell: "Peak FP16 Tensor TFLOPS with FP32 Accumulate".
        ("rtx3090", 71), ("rtx4090", 165.2), ("rtx5090", 209.5),
        # What is advertised: 16-bit sums, sparse; "AI TOPS" in 8 bits, sparse; in 4 bits, sparse.
        ("rtx3060", 101 / 4), ("rtx3070", 163 / 4),
        ("rtx4060", 242 / 8), ("rtx4060ti", 353 / 8), ("rtx4060-laptop", 233 / 8), ("rtx4080-laptop", 542 / 8),
        ("rtx5060", 614 / 16), ("rtx5060ti", 759 / 16), ("rtx5090", 3352 / 16),
    ],
)  # fmt: skip
def test_a_cards_peak_is_what_nvidia_says_of_it(card: str, tflops: float) -> None:
    assert peak_tflops(card) == pytest.approx(tflops, rel=0.01)
