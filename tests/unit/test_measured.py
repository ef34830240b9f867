"""What a worker on an H200 said, in the plan's own terms: the figures of a real start (Qwen3-VL-2B, AWQ, vLLM 0.32)."""

import asyncio
import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.engine.measured import held_now, in_parts, measure_and_learn
from serving.engine.worker_memory import WorkerMemory
from serving.errors import EngineArgsError
from serving.planning.calibration import constants_of
from serving.planning.describe import describe_measured
from serving.planning.memory import MEASURED, MIB
from serving.prepare import prepare

LASTING = {
    "weights": 2132 * MIB, "kv_cache": 3071 * MIB, "graph_pool": 22 * MIB, "allocated": 5325 * MIB,
    "allocated_peak": 5442 * MIB, "reserved": 5560 * MIB, "reserved_peak": 5560 * MIB, "process": 6484 * MIB,
}  # fmt: skip
TRANSIENTS = {
    "activations": 96 * MIB, "vision_encoder": 135 * MIB, "encoder_output": 19 * MIB, "encoder_tokens": 2048,
    "profiled_tokens": 1200,
}  # fmt: skip
HELD = {
    "process": 6600 * MIB, "reserved": 5700 * MIB, "reserved_peak": 5800 * MIB, "allocated_peak": 5500 * MIB,
    "given_back": 0,
}  # fmt: skip
LOG = "INFO [model_runner.py:1127] Graph capturing finished in 4 secs, took 0.19 GiB\n"


class Engine:
    """Speaks the protocol of vLLM's engine client, as far as it is used."""

    def __init__(self, transients: dict[str, int], *, grow: bool = True) -> None:
        self._answers: dict[str, Any] = {
            "onecard_memory": LASTING,
            "onecard_transients": transients,
            "onecard_held": HELD,
            "onecard_expand_segments": grow,
        }
        self.asked: list[str] = []
        self.hangs = self.dies = False

    async def collective_rpc(self, method: str) -> list[Any]:
        if self.dies:
            raise RuntimeError("EngineCore encountered an issue")
        if self.hangs:
            await asyncio.Event().wait()
        self.asked.append(method)
        return [copy.copy(self._answers[method])]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))


def application_of(engine: Engine) -> Any:
    return SimpleNamespace(state=SimpleNamespace(engine_client=engine))


def measured(tmp_path: Path, transients: dict[str, int], profile: str = "rtx3060", *argv: str) -> dict[str, Any]:
    log = tmp_path / "server.log"
    log.write_text(LOG, encoding="utf-8")
    plan = prepare(profile, None, user_argv=argv).plan
    return asyncio.run(measure_and_learn(application_of(Engine(transients)), plan, log))


def test_the_parts_are_the_plans_and_lie_near_what_it_predicts(tmp_path: Path) -> None:
    found = measured(tmp_path, TRANSIENTS)["memory_mib"]
    plan = prepare("rtx3060", None).plan.memory_mib.model_dump()
    assert found.keys() <= plan.keys()
    assert (found["weights"], found["cuda_graphs"]) == (2132, 195)
    # A full budget of pictures takes in proportion more than the one that was profiled.
    assert found["vision_encoder"] == pytest.approx(135 * 2048 / 1200 - found["encoder_cache"] - 96, abs=2)
    for name in ("weights", "buffers", "activations", "vision_encoder", "encoder_cache"):
        assert abs(found[name] - plan[name]) <= max(100, 0.15 * plan[name])


def test_without_the_drivers_figure_the_context_is_left_out_and_without_graphs_the_pool_counts() -> None:
    found = in_parts(LASTING | {"process": 0}, TRANSIENTS, None)
    assert "context" not in found
    assert found["cuda_graphs"] == 22


def test_what_other_programs_took_meanwhile_is_not_the_graphs() -> None:
    drivers = LASTING["process"] - LASTING["reserved"] + LASTING["graph_pool"]
    alone, crowded = (in_parts(LASTING, TRANSIENTS, graphs) for graphs in (195 * MIB, 4000 * MIB))
    assert crowded["context"] == 200
    for found in (alone, crowded):
        assert found["cuda_graphs"] + found["context"] == round(drivers / MIB), (
            "the process' own figure is right all the same"
        )


def test_what_lies_unused_in_the_graphs_pool_is_no_buffers() -> None:
    more = {"graph_pool": 322 * MIB, "graph_allocated": 12 * MIB}
    found = in_parts(LASTING | more, TRANSIENTS, 1082 * MIB)
    assert found["buffers"] == in_parts(LASTING, TRANSIENTS, 195 * MIB)["buffers"] + 10


def test_nor_is_it_fragments() -> None:
    more = {"graph_pool": 322 * MIB, "reserved_peak": 5860 * MIB}
    assert (
        in_parts(LASTING | more | {"graph_allocated": 0}, TRANSIENTS, 1082 * MIB)["fragmentation"] == 5860 - 5442 - 322
    )


@pytest.mark.parametrize(("grow", "planned"), [(True, True), (False, True), (True, False)])
def test_segments_grow_before_anything_is_measured_and_who_cannot_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, grow: bool, planned: bool
) -> None:
    engine, plan = Engine(TRANSIENTS, grow=grow), prepare("rtx3060", None).plan
    plan = plan.model_copy(update={"expandable_segments": planned})
    with caplog.at_level(logging.WARNING, "vllm.onecard"):
        asyncio.run(measure_and_learn(application_of(engine), plan, tmp_path / "none.log"))
    assert engine.asked == ["onecard_expand_segments"] * planned + ["onecard_transients", "onecard_memory"]
    told = "Start with PYTORCH_ALLOC_CONF=expandable_segments:False, and the plan counts them." in caplog.text
    assert told is (planned and not grow)


@pytest.mark.parametrize("can", [True, False])
def test_an_allocator_whose_segments_cannot_grow_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch, can: bool) -> None:
    import torch
    from vllm.device_allocator import alloc_conf

    def empty(*_arguments: Any, **_options: Any) -> None:
        if not can:
            raise RuntimeError("CUDA driver error: unknown error")

    configured = ["per_process_memory_fraction:0.5"]
    monkeypatch.setattr(alloc_conf, "current_alloc_conf", lambda: configured[-1])
    monkeypatch.setattr(alloc_conf, "set_alloc_conf", configured.append)
    monkeypatch.setattr(torch, "empty", empty)
    assert WorkerMemory().onecard_expand_segments() is can
    grown = "per_process_memory_fraction:0.5,expandable_segments:True"
    assert configured[1:] == ([grown] if can else [grown, "per_process_memory_fraction:0.5"])


def test_an_encoder_that_may_take_more_than_planned_is_never_served(tmp_path: Path) -> None:
    with pytest.raises(EngineArgsError, match="16,384 tokens a step, and memory is planned for 2,048"):
        measured(tmp_path, TRANSIENTS | {"encoder_tokens": 16_384})


def held(engine: Engine, profile: str = "rtx3060") -> dict[str, Any]:
    return asyncio.run(held_now(application_of(engine), prepare(profile, None).plan))


def test_what_is_held_is_asked_anew_and_nobody_waits_for_an_engine_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(TRANSIENTS)
    now = held(engine)
    assert (now["held_mib"]["process"], now["held_mib"]["reserved_peak"], now["given_back"]) == (6600, 5800, 0)
    assert held(engine, "cpu") == {}
    monkeypatch.setattr("serving.engine.measured._ASKED_S", 0.01)
    engine.hangs = True
    assert held(engine) == {}
    engine.dies = True
    assert held(engine) == {}


def test_a_card_that_was_full_says_so(tmp_path: Path) -> None:
    status = {"state": "ready", "plan": prepare("rtx3060", None).plan.model_dump()}
    told = measured(tmp_path, TRANSIENTS) | held(Engine(TRANSIENTS))
    assert "holds 5,700 MiB, and has held 5,800" in describe_measured(status | {"measured": told})
    assert "never had to give any back" in describe_measured(status | {"measured": told})
    full = describe_measured(status | {"measured": told | {"given_back": 3}})
    assert "give memory back 3 times" in full
    assert "--kv-cache-memory-bytes" in full


def test_a_start_with_drafts_is_measured_and_teaches_the_plans_without_nothing(tmp_path: Path) -> None:
    drafting = ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}')
    assert measured(tmp_path, TRANSIENTS, "rtx3060", *drafting)["memory_mib"]["weights"] == 2132
    card = prepare("rtx3060", None).plan.gpu.name
    assert constants_of(card) == MEASURED
    measured(tmp_path, TRANSIENTS)
    assert constants_of(card) != MEASURED


def test_a_cpu_measures_nothing(tmp_path: Path) -> None:
    assert measured(tmp_path, TRANSIENTS, "cpu") == {}


def test_predicted_and_measured_stand_side_by_side(tmp_path: Path) -> None:
    status = {"state": "ready", "plan": prepare("rtx3060", None).plan.model_dump(), "measured": {}}
    assert "runs on no GPU" in describe_measured(status)
    told = describe_measured(status | {"measured": measured(tmp_path, TRANSIENTS)})
    assert "weights" in told
    assert "together" in told
    assert "still warming" in describe_measured(status | {"state": "warming"})
