"""An EAGLE3 head on a real vLLM: it says what the model says without, in fewer steps where the head is any good, and the cache
holds as many tokens as was planned."""

import json
import re
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from serving.demo.evaluate import ask_all
from serving.demo.questions.heldout import heldout
from tests.conftest import Server, start_server
from tests.eagle import fit_head, write_head

QUESTIONS, FITTED_TO = 100, 150
OTHER_SEED = 7  # of the questions that the head is fitted to


@pytest.fixture(scope="module", params=["random", "fitted"])
def drafting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "fitted":
        head = fit_head(folder / "fitted", heldout(FITTED_TO, OTHER_SEED))
    else:
        head = write_head(folder / "random")
    asking = {"method": "eagle3", "model": str(head), "num_speculative_tokens": 3}
    running = start_server(folder, "--model", "demo", "--", "--speculative-config", json.dumps(asking))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def counted(server: Server, name: str) -> float:
    """One of vLLM's counters of drafts."""
    found = re.search(rf"^vllm:{name}_total{{.*}} (.+)$", server.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.long
def test_answers_are_those_of_the_model_alone(drafting: Server, client: OpenAI) -> None:
    """At temperature 0 and many at once; numbers of 16 bits that are as good as equal may fall otherwise where a step has other
    rows, once in a while."""
    questions = list(heldout(QUESTIONS))
    with drafting.openai() as drafter:
        alone, drafted = (ask_all(each, "onecard-demo", questions, QUESTIONS, "drawings") for each in (client, drafter))
    same = sum(one.answer == other.answer for one, other in zip(alone, drafted, strict=True))
    assert same >= 0.98 * QUESTIONS
    assert sum(each.right for each in drafted) >= sum(each.right for each in alone) - 0.02 * QUESTIONS
    drafts, accepted = counted(drafting, "spec_decode_num_drafts"), counted(drafting, "spec_decode_num_accepted_tokens")
    assert drafts > QUESTIONS
    head = drafting.get("/onecard/status").json()["plan"]["speculation"]["head"]
    # By a head that knows something more than every third step gives a token more; by chance next to none does.
    assert accepted > drafts / 3 if head == "fitted" else accepted < drafts / 100


@pytest.mark.long
def test_the_cache_holds_what_was_planned(drafting: Server) -> None:
    plan = drafting.get("/onecard/status").json()["plan"]
    info = re.search(r"^vllm:cache_config_info{(.*)} 1.0$", drafting.get("/metrics").text, re.MULTILINE)
    assert info
    size, blocks = (int(re.findall(rf'(?:^|,){key}="(\d+)"', info[1])[0]) for key in ("block_size", "num_gpu_blocks"))
    assert plan["capacity"]["kv_tokens"] == size * (blocks - 1)  # vLLM gives all but one of them out


@pytest.mark.long
def test_what_vllm_does_not_check_drafts_with_is_refused_in_words(drafting: Server) -> None:
    with drafting.openai() as client, pytest.raises(openai.BadRequestError, match="speculative decoding"):
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Hello"}],
            temperature=1,
            max_tokens=4,
            extra_body={"min_p": 0.1},
        )
