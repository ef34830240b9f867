"""What is recorded, as Prometheus would read it: through the text that is exposed, parsed again."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.exporter import host
from serving.exporter.host import Host, HostCollector, Samples
from serving.exporter.sampled import Sampled
from serving.exporter.watch import Watch
from serving.metrics import catalog, reference
from serving.metrics.recorder import Recorder
from serving.metrics.status import StatusCollector
from serving.planning.plan import MemoryMib
from serving.prepare import prepare


class Scrape:
    """The samples of a registry's text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        families = list(text_string_to_metric_families(generate_latest(registry).decode()))
        self.kinds = {family.name: family.type for family in families}
        self.samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def recorder(registry: CollectorRegistry) -> Recorder:
    return Recorder(registry)


def test_a_request_is_counted_by_route_key_outcome_and_reason(recorder: Recorder, registry: CollectorRegistry) -> None:
    recorder.record_request("/v1/chat/completions", "alice", "answered", "none", 0.4)
    recorder.record_request("/v1/chat/completions", "alice", "refused", "queue_full", 0.001)
    seen = Scrape(registry)
    chat = {"route": "/v1/chat/completions", "key": "alice"}
    assert seen("onecard_requests_total", **chat, outcome="answered", reason="none") == 1
    assert seen("onecard_requests_total", **chat, outcome="refused", reason="queue_full") == 1
    # A refusal is quick, and would make the latency of answers look better than it is.
    assert seen("onecard_request_seconds_count", route="/v1/chat/completions") == 1
    assert seen("onecard_request_seconds_sum", route="/v1/chat/completions") == pytest.approx(0.4)


def test_an_answer_is_counted_in_tokens_and_in_tokens_per_second(
    recorder: Recorder, registry: CollectorRegistry
) -> None:
    recorder.record_finish("length")
    recorder.record_tokens("alice", prompt=800, answer=65, decode_seconds=0.5)
    recorder.record_tokens("bob", prompt=10, answer=5, decode_seconds=None)
    seen = Scrape(registry)
    assert seen("onecard_tokens_total", kind="prompt", key="alice") == 800
    assert seen("onecard_tokens_total", kind="answer", key="bob") == 5
    assert seen("onecard_answers_total", finish="length") == 1
    assert seen("onecard_answer_tokens_per_second_sum") == pytest.approx(64 / 0.5)
    assert seen("onecard_answer_tokens_per_second_count") == 1


def test_what_runs_and_what_waits(recorder: Recorder, registry: CollectorRegistry) -> None:
    recorder.record_in_flight(1)
    recorder.record_in_flight(1)
    recorder.record_in_flight(-1)
    recorder.record_queued(1)
    recorder.record_queue_time(0.3)
    recorder.record_retry_after(7)
    seen = Scrape(registry)
    assert (seen("onecard_requests_in_flight"), seen("onecard_requests_queued")) == (1, 1)
    assert seen("onecard_queue_seconds_sum") == pytest.approx(0.3)
    assert seen("onecard_retry_after_seconds_sum") == 7


def test_a_picture_is_measured_as_it_was_sent_and_as_the_model_sees_it(
    recorder: Recorder, registry: CollectorRegistry
) -> None:
    recorder.record_image(received_bytes=2_000_000, received_pixels=12_000_000, fitted_pixels=1_228_800, tokens=1200)
    recorder.record_image_step("decode", 0.03)
    recorder.record_image_refused("too_large")
    seen = Scrape(registry)
    assert seen("onecard_images_total") == 1
    assert seen("onecard_image_bytes_sum") == 2_000_000
    assert seen("onecard_image_pixels_sum", stage="received") == 12_000_000
    # 1280×960, the budget of a profile, is a bound of its own: it counts as at most that.
    assert seen("onecard_image_pixels_bucket", stage="fitted", le="1.2288e+06") == 1
    assert seen("onecard_image_seconds_sum", stage="decode") == pytest.approx(0.03)
    assert seen("onecard_tokens_total", kind="image", key="none") == 1200
    assert seen("onecard_images_refused_total", reason="too_large") == 1


def test_no_client_can_make_series_without_end(recorder: Recorder, registry: CollectorRegistry) -> None:
    for number in range(100):
        recorder.record_image_refused(f"reason_{number}")
    recorder.record_image_refused('x"} 1\nforged')
    recorder.record_finish("whatever")
    seen = Scrape(registry)
    refused = {labels for name, labels in seen.samples if name == "onecard_images_refused_total"}
    assert len(refused) == 33
    assert seen("onecard_images_refused_total", reason="other") == 69
    assert seen("onecard_answers_total", finish="other") == 1


def _status(**changes: Any) -> dict[str, Any]:
    plan = prepare("rtx3060", "demo", gpu_memory_mib=12_288).plan.model_dump()
    return {
        "state": "ready",
        "restarts": 2,
        "cards": [{"state": "ready"}, {"state": "ready"}, {"state": "lost"}],
        "wakes": 3,
        "swaps": 1,
        "wake_s": 12.5,
        "plan": plan,
        "measured": {},
    } | changes


def test_the_plan_stands_beside_what_was_measured(registry: CollectorRegistry) -> None:
    status = _status(measured={"warmup_text_s": 0.2, "memory_mib": {"weights": 100, "kv_cache": 2000.5}})
    registry.register(StatusCollector(lambda: status))
    seen, planned = Scrape(registry), status["plan"]["memory_mib"]
    assert seen("onecard_memory_predicted_bytes", component="kv_cache") == planned["kv_cache"] * 2**20
    assert seen("onecard_memory_measured_bytes", component="weights") == 100 * 2**20
    assert seen("onecard_memory_measured_bytes", component="kv_cache") == 2000.5 * 2**20
    predicted = [value for (name, _), value in seen.samples.items() if name == "onecard_memory_predicted_bytes"]
    assert sum(predicted) == planned["total"] * 2**20
    assert seen("onecard_plan_limit", limit="kv_tokens") == status["plan"]["capacity"]["kv_tokens"]
    assert seen("onecard_restarts_total") == 2
    assert [seen("onecard_cards", state=state) for state in ("ready", "lost", "restarting")] == [2, 1, 0]
    assert (seen("onecard_wakes_total"), seen("onecard_swaps_total"), seen("onecard_wake_seconds")) == (3, 1, 12.5)
    assert seen("onecard_plan_decode_tokens_per_second") == status["plan"]["expected"]["decode_tokens_per_s"]


@pytest.mark.parametrize("state", ["starting", "ready", "restarting", "a new one"])
def test_one_state_at_a_time(state: str, registry: CollectorRegistry) -> None:
    registry.register(StatusCollector(lambda: _status(state=state)))
    seen = Scrape(registry)
    assert seen("onecard_state", state=state) == 1
    assert sum(value for (name, _), value in seen.samples.items() if name == "onecard_state") == 1


def test_a_server_that_does_not_answer_is_stopped(registry: CollectorRegistry) -> None:
    registry.register(StatusCollector(lambda: {"state": "stopped"}))
    seen = Scrape(registry)
    assert seen("onecard_state", state="stopped") == 1
    assert seen("onecard_restarts_total") is None


def test_names_follow_the_conventions() -> None:
    for metric in catalog.ALL:
        assert metric.name.startswith("onecard_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.bounds) == (metric.kind == "histogram")
        assert list(metric.bounds) == sorted(set(metric.bounds))
    assert len({metric.name for metric in catalog.ALL}) == len(catalog.ALL)


def test_the_reference_page_is_that_of_the_code() -> None:
    page = reference.page()
    assert reference.PAGE.read_text(encoding="utf-8") == page, "run `python -m serving.metrics.reference`"
    assert all(f"`{metric.name}`" in page for metric in catalog.ALL)


def test_old_figures_of_the_machine_are_not_shown(
    registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a disk that has gone away holds up whoever asks how full it is."""
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    answers = threading.Event()
    answers.set()
    machine = Host(1)

    def read() -> Samples:
        answers.wait()
        return machine.read()

    around = Sampled("host", read, interval_s=0.001, max_age_s=0.5)
    around.start()
    registry.register(HostCollector(1, Sampled("server", Watch(1).read, interval_s=1.0), around))
    free = ("onecard_disk_free_bytes", {"folder": "state"})
    assert Scrape(registry)(free[0], **free[1])
    answers.clear()
    time.sleep(1)
    seen = Scrape(registry)
    assert seen(free[0], **free[1]) is None
    assert seen("onecard_host_memory_available_bytes") is None
    answers.set()
    time.sleep(0.3)
    assert Scrape(registry)(free[0], **free[1])


def test_the_help_names_every_value_of_a_label() -> None:
    components = MemoryMib.model_fields.keys()
    assert [name for name in components if name not in catalog.MEMORY_PREDICTED.help] == []
    assert [role for _, role in host.ROLES if role not in catalog.PROCESS_MEMORY.help] == []


def test_a_reading_that_goes_on_failing_is_told_once_and_again_when_it_fails_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Read once a second for weeks, the log would else fill the disk."""
    came = iter([OSError("no"), OSError("still no"), OSError("no"), 7, OSError("no"), ValueError("odd")])
    done = threading.Event()

    def read() -> int:
        each = next(came, None)
        if each is None:
            done.set()
            threading.Event().wait()  # its thread ends with the process
        if isinstance(each, Exception):
            raise each
        return int(each or 0)

    with caplog.at_level(logging.ERROR):
        Sampled("gpu", read, interval_s=0.001).start()
        assert done.wait(20)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError, OSError, ValueError]
