"""The built-in model's promise, kept through the running server: held-out drawings, both languages, and photographs."""

import pytest
from openai import OpenAI

from serving.demo.evaluate import ask_all, summary
from serving.demo.questions.heldout import heldout, photographs

KINDS = 13


def test_a_sample_of_the_held_out_questions(client: OpenAI) -> None:
    """Six of each kind and language; the margin is that of so small a sample (the long test asks them all)."""
    drawn = ask_all(client, "onecard-demo", heldout(12 * KINDS), 12 * KINDS, "drawings")
    photos = ask_all(client, "onecard-demo", photographs(20), 20, "photographs")
    result = summary(drawn, photos)
    assert result["accuracy"] >= 0.95, result["wrong"]
    assert result["photographs"]["refused"] >= 19
    assert result["drawings_refused_wrongly"]["count"] <= 1


@pytest.mark.long
def test_all_held_out_questions(client: OpenAI) -> None:
    result = summary(
        ask_all(client, "onecard-demo", heldout(2000), 2000, "drawings"),
        ask_all(client, "onecard-demo", photographs(100), 100, "photographs"),
    )
    assert result["accuracy"] >= 0.98, result["wrong"]
    low = {
        (kind, language): cell
        for kind, languages in result["kinds"].items()
        for language, cell in languages.items()
        if cell["right"] < 0.95 * cell["of"]
    }
    assert low == {}, result["wrong"]
    assert result["photographs"]["refused"] >= 95
    assert result["drawings_refused_wrongly"]["count"] <= 0.01 * result["drawings_refused_wrongly"]["of"]
