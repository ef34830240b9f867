"""What a start on a card teaches the next plan for it."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from serving.planning import calibration
from serving.planning.calibration import constants_of, learn, learn_from_start
from serving.planning.memory import MEASURED, MIB
from serving.prepare import prepare

CARD = "NVIDIA GeForce RTX 3060"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    return tmp_path


def measured(**other: int) -> dict[str, int]:
    return prepare("rtx3060", None).plan.memory_mib.model_dump() | other


def test_a_smaller_context_leaves_more_for_the_cache_the_next_time() -> None:
    first = prepare("rtx3060", None)
    learn_from_start(first.plan, measured(context=400, cuda_graphs=40))
    again = replace(first.subject, constants=constants_of(CARD)).plan()
    assert again.memory_mib.context == 424
    assert again.memory_mib.cuda_graphs == 40
    assert again.capacity.kv_tokens > first.plan.capacity.kv_tokens


def test_more_than_was_planned_is_believed_and_fewer_fragments_are_not() -> None:
    plan = prepare("rtx3060", None).plan
    more = learn(
        plan, measured(fragmentation=plan.memory_mib.fragmentation + 50, buffers=plan.memory_mib.buffers + 7), MEASURED
    )
    assert more.fragments == MEASURED.fragments + 50 * MIB
    assert more.workspace == MEASURED.workspace + 7 * MIB
    assert learn(plan, measured(fragmentation=1), MEASURED).fragments == MEASURED.fragments


def test_graphs_of_the_encoder_that_were_larger_are_counted_and_those_of_the_language_model_left() -> None:
    plan = prepare("rtx4090", None, user_argv=("--compilation-config", '{"cudagraph_mm_encoder": true}')).plan
    more = learn(plan, plan.memory_mib.model_dump() | {"cuda_graphs": plan.memory_mib.cuda_graphs + 30}, MEASURED)
    assert more.graph_of_layer == MEASURED.graph_of_layer
    assert more.workspace == MEASURED.workspace + 30 * MIB


def test_the_first_start_counts_and_each_card_has_its_own() -> None:
    plan = prepare("rtx3060", None).plan
    learn_from_start(plan, measured(context=400))
    learn_from_start(plan, measured(context=900))
    assert constants_of(CARD).context == 424 * MIB
    assert constants_of("NVIDIA GeForce RTX 4090") == MEASURED
    assert constants_of(None) == MEASURED


@pytest.mark.parametrize("content", ["", "{", "[]", '{"NVIDIA GeForce RTX 3060, no vLLM": 3}'])
def test_a_file_that_is_broken_teaches_nothing(state: Path, content: str) -> None:
    (state / "calibration.json").write_text(content, encoding="utf-8")
    assert constants_of(CARD) == MEASURED


def test_what_an_older_version_kept_is_left_aside(state: Path) -> None:
    old = {calibration._key(CARD): dict.fromkeys(list(asdict(MEASURED))[1:], 1)}
    (state / "calibration.json").write_text(str(old).replace("'", '"'), encoding="utf-8")
    assert constants_of(CARD) == MEASURED


def test_a_directory_that_cannot_be_written_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", "/proc/nowhere")
    learn_from_start(prepare("rtx3060", None).plan, measured(context=400))
