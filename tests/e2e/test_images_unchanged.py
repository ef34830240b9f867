"""The same answers whether our connector shrinks the pictures or the reference processor does."""

from itertools import islice
from pathlib import Path

import pytest

from serving.demo.evaluate import ask_all
from serving.demo.questions.heldout import heldout
from tests.conftest import Server, start_server

PICTURES = 200
# One more key than the plan's own `size` (the profile cpu's figures), and the connector leaves resizing to the processor.
LEFT_TO_THE_PROCESSOR = '{"size": {"shortest_edge": 65536, "longest_edge": 102400}, "do_resize": true}'


@pytest.mark.long
def test_the_same_answers_with_and_without(server: Server, tmp_path: Path) -> None:
    """200 drawings of 64 to 2048 pixels, as JPEG, PNG and WebP, with questions of every kind in both languages."""
    drawn = list(islice((example for example in heldout(2 * PICTURES) if example.images), PICTURES))
    with server.openai() as client:
        shrunk_by_us = ask_all(client, "onecard-demo", drawn, PICTURES, "shrunk by the connector")
    reference = start_server(tmp_path, "--", "--mm-processor-kwargs", LEFT_TO_THE_PROCESSOR)
    try:
        reference.wait_until_ready()
        with reference.openai() as client:
            shrunk_by_it = ask_all(client, "onecard-demo", drawn, PICTURES, "shrunk by the processor")
    finally:
        reference.stop()
    differing = [
        (ours.example.question, ours.answer, its.answer)
        for ours, its in zip(shrunk_by_us, shrunk_by_it, strict=True)
        if ours.answer != its.answer
    ]
    # Answers are compared as text: batches of another shape round differently, which may turn one doubtful answer.
    assert len(differing) <= 1, differing
    assert abs(sum(each.right for each in shrunk_by_us) - sum(each.right for each in shrunk_by_it)) <= 1
