"""The times of a card found again from what its clients see, by the simulation that is to be used with them."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.fleet.calibrate import Alone, Seen, fit, fit_prompt
from serving.fleet.cards import Measured, Service
from serving.fleet.simulate import simulate_closed, simulate_until

TOKENS, CLIENTS, PROMPT_TOKENS = 64, 16, 784
# About an H200's.
CARD = Measured(delay_s=0.022, prompt_s=0.019, prompt_tokens=PROMPT_TOKENS, step_s=0.0027, sequence_s=0.000015)


def served(times: Measured, *, cards: int = 1, clients: int = CLIENTS, seconds: float = 4.0) -> Seen:
    service = Service(**times.model_dump(), at_once=CLIENTS, queue=2 * CLIENTS, budget=4096, source="a test")
    outcome = simulate_until([service] * cards, clients, seconds, lambda: TOKENS)
    return Seen(outcome.requests_per_s, statistics.median(outcome.firsts_s()))


def alone(times: Measured) -> Alone:
    step = times.step_s + times.sequence_s
    return Alone(times.delay_s + times.prompt_s + step, step)


@settings(max_examples=10, deadline=None)
@given(
    delay_s=st.floats(0.005, 0.05),
    prompt_s=st.floats(0.002, 0.05),
    step_s=st.floats(0.001, 0.02),
    share=st.floats(0.0, 0.02),
)
def test_the_closed_loop_that_was_measured_is_simulated(
    delay_s: float, prompt_s: float, step_s: float, share: float
) -> None:
    times = Measured(
        delay_s=delay_s, prompt_s=prompt_s, prompt_tokens=PROMPT_TOKENS, step_s=step_s, sequence_s=share * step_s
    )
    seen = served(times)
    found = fit(alone(times), seen, PROMPT_TOKENS, served)
    assert served(found).per_s == pytest.approx(seen.per_s, rel=0.01)
    again = alone(found)
    assert (again.first_token_s, again.per_token_s) == pytest.approx(
        (alone(times).first_token_s, alone(times).per_token_s)
    )


def test_the_times_are_found_again_and_so_is_what_was_not_seen() -> None:
    found = fit(alone(CARD), served(CARD), PROMPT_TOKENS, served)
    assert found.prompt_s == pytest.approx(CARD.prompt_s, rel=0.05)
    assert found.delay_s == pytest.approx(CARD.delay_s, rel=0.05)
    for cards, clients in ((1, 8), (2, 32)):
        unseen = served(CARD, cards=cards, clients=clients)
        assert served(found, cards=cards, clients=clients).per_s == pytest.approx(unseen.per_s, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(clients=st.integers(1, 60), prompt_s=st.floats(0.001, 0.05), step_s=st.floats(0.001, 0.02))
def test_more_clients_never_take_less_time(clients: int, prompt_s: float, step_s: float) -> None:
    service = Service(
        delay_s=0.02, prompt_s=prompt_s, prompt_tokens=784, step_s=step_s, sequence_s=step_s / 100,
        at_once=CLIENTS, queue=2 * CLIENTS, budget=4096, source="a test",
    )  # fmt: skip

    def seconds(many: int) -> float:
        return simulate_closed([service], many, 3, lambda: TOKENS).seconds

    assert seconds(clients + 1) >= seconds(clients) * (1 - 1e-9)


def test_answers_that_wait_longer_than_steps_explain_add_nothing_to_one() -> None:
    """A first token that comes late is the prompts' matter: no time is below nothing."""
    seen = served(CARD)
    found = fit(alone(CARD), Seen(seen.per_s, 10 * seen.first_token_s), PROMPT_TOKENS, served)
    assert found.sequence_s == 0
    assert served(found).per_s == pytest.approx(seen.per_s, rel=0.01)


def test_more_answers_than_any_prompt_allows_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"900 requests a second were measured.*too long for that.*Measure both again"):
        fit(alone(CARD), Seen(900.0, 0.1), PROMPT_TOKENS, served)


def test_a_prompt_longer_than_the_first_token_leaves_no_delay() -> None:
    def times(prompt_s: float) -> Measured:
        return alone(CARD).times(prompt_s, 0.0, PROMPT_TOKENS)

    slow = fit_prompt(times, lambda each: served(each).per_s, 5.0)
    assert slow.delay_s == 0
    assert slow.prompt_s > alone(CARD).first_token_s
    assert served(slow).per_s == pytest.approx(5.0, rel=0.01)
