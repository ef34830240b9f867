"""The steps of a start, read off a log as vLLM 0.32 writes it, and how long they usually take."""

import importlib.util
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.machine.progress import STEPS, TITLES, Progress, keep_typical, read_typical

KEYS = [key for key, _, _ in STEPS]
LOG = """\
INFO 11-22 15:20:01 [api_utils.py:339] non-default args: {'model': '/models/demo', 'max_model_len': 4096}
INFO 11-22 15:20:02 [model.py:549] Resolved architecture: Qwen3VLForConditionalGeneration
INFO 11-22 15:20:02 [model.py:1678] Using max model len 4096
(EngineCore pid=311) INFO 11-22 15:20:09 [core.py:105] Initializing a V1 LLM engine (v0.32.0) with config: model='/models/demo'
(EngineCore pid=311) INFO 11-22 15:20:10 [gpu_model_runner.py:4735] Starting to load model /models/demo...
(EngineCore pid=311) INFO 11-22 15:20:11 [default_loader.py:384] Loading weights took 0.31 seconds
(EngineCore pid=311) INFO 11-22 15:20:11 [gpu_model_runner.py:4820] Model loading took 0.02 GiB memory and 0.4 seconds
(EngineCore pid=311) INFO 11-22 15:20:12 [gpu_model_runner.py:5747] Encoder cache will be initialized with a budget of 4096
(EngineCore pid=311) INFO 11-22 15:20:20 [backends.py:1051] Dynamo bytecode transform time: 4.02 s
(EngineCore pid=311) INFO 11-22 15:20:40 [backends.py:350] Compiling a graph for compile range (1, 4096) takes 20.1 s
Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|##########| 7/7 [00:00<00:00, 40.1it/s]
(APIServer pid=300) INFO 11-22 15:20:50 [api_server.py:590] Supported tasks: ['generate']
"""


def test_the_log_of_a_start_passes_every_step_in_order() -> None:
    progress = Progress({})
    seen = [progress.step]
    for line in LOG.splitlines():
        if progress.see_log_line(line):
            seen.append(progress.step)
    assert seen == [*KEYS[:-1]]
    assert progress.begin("warmup")
    assert progress.title == TITLES["warmup"]


def test_each_step_is_announced_by_the_installed_vllm() -> None:
    """In its source: what it no longer says would cost a line of progress without anyone noticing."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0])
    source = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in folder.rglob("*.py"))
    assert [key for key, _, pattern in STEPS if pattern and not pattern.search(source)] == []


def test_a_start_without_compilation_skips_its_steps() -> None:
    progress = Progress({})
    for line in LOG.splitlines():
        if "Compiling" not in line and "Dynamo" not in line and "graphs" not in line:
            progress.see_log_line(line)
    assert progress.step == "api"
    assert progress.durations_s().keys() == set(KEYS) - {"compile", "graphs", "warmup"}


@given(st.lists(st.sampled_from(LOG.splitlines()) | st.text(max_size=40), max_size=20))
def test_lines_in_any_order_never_lead_back(lines: list[str]) -> None:
    progress = Progress({})
    place = 0
    for line in lines:
        began = progress.see_log_line(line)
        assert KEYS.index(progress.step) >= place + began
        place = KEYS.index(progress.step)
    assert not any(progress.begin(key) for key in KEYS[: place + 1])


def test_the_seconds_left_are_those_of_the_last_start() -> None:
    assert Progress({}).seconds_left() is None
    progress = Progress({"import": 10.0, "weights": 5.0, "warmup": 1.0})

    def is_about(seconds: float) -> bool:
        """But for what has passed, which a busy machine decides."""
        left = progress.seconds_left()
        return left is not None and abs(left - seconds) <= progress.elapsed_s()

    assert is_about(16.0)
    assert progress.typical_step_s() == 10.0
    progress.begin("weights")
    assert is_about(6.0)
    progress.begin("profile")  # a step that the last start did not have
    assert is_about(1.0)
    assert progress.typical_step_s() is None
    progress.begin("warmup")
    time.sleep(0.05)
    assert is_about(1.0)
    assert progress.seconds_left() != 1.0


def test_a_step_that_takes_longer_than_usual_is_expected_to_go_on_for_as_long_again() -> None:
    progress = Progress({"import": 0.01, "weights": 5.0})
    time.sleep(0.03)
    left = progress.seconds_left()
    assert left is not None
    assert 5.02 <= left < 5 + progress.elapsed_s()


def test_the_durations_add_up_to_the_time_since_the_start() -> None:
    progress = Progress({})
    time.sleep(0.05)
    progress.begin("weights")
    time.sleep(0.1)
    before = progress.elapsed_s()
    durations = progress.durations_s()
    assert list(durations) == ["import", "weights"]
    assert durations["weights"] >= 0.09
    assert before - 0.02 <= sum(durations.values()) <= progress.elapsed_s() + 0.02  # they are rounded


def test_timings_are_kept_for_each_profile_and_model(tmp_path: Path) -> None:
    keep_typical(tmp_path, "cpu /models/demo", {"import": 3.0})
    keep_typical(tmp_path, "rtx3060 /models/qwen", {"import": 4.5})
    keep_typical(tmp_path, "cpu /models/demo", {"import": 2.0})
    assert read_typical(tmp_path, "cpu /models/demo") == {"import": 2.0}
    assert read_typical(tmp_path, "rtx3060 /models/qwen") == {"import": 4.5}
    assert read_typical(tmp_path, "rtx4090 /models/qwen") == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cpu": 3}', '{"cpu": null}', "\x00"])
def test_broken_timings_are_as_good_as_none_and_are_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "timings.json").write_text(content)
    assert read_typical(tmp_path, "cpu") == {}
    keep_typical(tmp_path, "cpu", {"import": 1.0})
    assert read_typical(tmp_path, "cpu") == {"import": 1.0}


def test_timings_that_cannot_be_kept_stop_nothing(tmp_path: Path) -> None:
    keep_typical(tmp_path / "gone", "cpu", {"import": 1.0})
    assert read_typical(tmp_path / "gone", "cpu") == {}
