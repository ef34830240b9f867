"""The memory benchmarks where no GPU is: the process that holds a card's memory, beside a stand-in for torch's allocator; and
what is made of points."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory_table, survival_table
from benchmarks.memory import points
from benchmarks.memory_device import holding
from benchmarks.memory_results import Results, is_measured
from benchmarks.memory_score import fit, halves, read_points, table
from benchmarks.shapes import shape_config
from benchmarks.spread import spread
from serving.models.architecture import read_shape
from serving.models.weights import measure_weights
from serving.planning import memory
from serving.planning.layout import layout
from tests import nvml
from tests.exporting import Card

ROOT = Path(__file__).parents[2]
# A card of 8 GiB, of which the first allocation takes half a GiB for the CUDA context.
TORCH = """
import os, types
free = 2**33
uint8 = "uint8"
def zeros(count, device):
    global free
    free -= 2**29
    return device
def empty(size, dtype, device):
    global free
    if size > free:
        raise MemoryError("CUDA out of memory")
    free -= size
    with open(os.environ["LEFT_FREE"], "w") as file:
        file.write(f"{device} {free // 2**20}")
    return device
cuda = types.SimpleNamespace(mem_get_info=lambda gpu: (free, 2**33))
"""


@pytest.fixture
def left_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in for torch writes how many MiB are free after each allocation."""
    (tmp_path / "torch.py").write_text(TORCH, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("LEFT_FREE", str(tmp_path / "left"))
    return tmp_path / "left"


def test_a_holder_says_that_it_holds_once_only_so_much_is_left(left_free: Path) -> None:
    with holding(3, 2500):
        assert left_free.read_text(encoding="utf-8") == "cuda:3 2500"


def test_a_card_is_read_by_nvml(tmp_path: Path) -> None:
    card = Card(tmp_path)
    command = "from benchmarks.memory_device import device_name, total_mib, used_mib\n"
    command += "print(device_name(0), total_mib(0), used_mib(0))"
    environment = os.environ | card.environment
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True)
    used = -(-int(nvml.answers()["nvmlDeviceGetMemoryInfo.used"]) // 2**20)
    assert told.stdout == f"NVIDIA H200 143771 {used}\n"


# A child that starts one of its own, and says both numbers; a third process is not of this program.
STARTED = """
import json, os, subprocess, sys
from pathlib import Path
from benchmarks.memory_device import sampling_started

start = "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True)\\n"
start += "print(child.pid, flush=True); child.wait()"
child = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True)
grandchild = int(child.stdout.readline())
print(child.pid, grandchild, flush=True)
input()
with sampling_started(0) as peaks:
    pass
print(json.dumps(peaks))
os.kill(grandchild, 9)
"""


def test_what_a_process_and_all_that_it_started_hold_is_told_apart_from_others(tmp_path: Path) -> None:
    card = Card(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", STARTED], env=os.environ | card.environment, **pipes) as run:
        assert run.stdout is not None
        child, grandchild = run.stdout.readline().split()
        processes = {"": "4", ".0": f"{grandchild} {3 << 20}", ".1": f"{os.getpid()} {5 << 20}"}
        processes |= {".2": f"{2**22 - 1} {7 << 20}", ".3": f"{child} {2**20 + 1}"}  # the third has ended
        card.tells(**{f"nvmlDeviceGetComputeRunningProcesses_v3{number}": told for number, told in processes.items()})
        told, _ = run.communicate("\n")
    assert json.loads(told) == {child: 5, "0": 12}


def test_work_is_spread_over_places_and_stopped_by_the_first_that_fails() -> None:
    stopping, done = threading.Event(), list[tuple[str, int]]()

    def do(place: str, piece: int) -> None:
        done.append((place, piece))
        if piece == 3:
            raise OSError("no room")

    spread(range(3), ["a", "b", "b"], do, stopping)
    assert sorted(piece for _, piece in done) == [0, 1, 2]
    assert not stopping.is_set()
    with pytest.raises(OSError, match="no room"):
        spread(range(3, 1000), ["a"], do, stopping)
    assert stopping.is_set()
    assert len(done) == 4


def test_a_card_that_cannot_be_held_is_no_smaller_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no CUDA here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(RuntimeError, match="the memory of GPU 0 could not be held"), holding(0, 1000):
        pass


def test_a_holder_lets_go_when_its_parent_has_ended(left_free: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory_holder", "0", "2500"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        holder.stdin.close()
        assert holder.wait(60) == 0
    assert left_free.is_file()


# vLLM's engine outlives a program that SIGTERM ends at once; what ends in order ends it.
VLLM = """
import atexit, time
class LLM:
    def __init__(self, **_):
        atexit.register(print, "the engine is ended", flush=True)
        print("the engine runs", flush=True)
        time.sleep(600)
"""


def test_a_point_that_is_ended_ends_its_engine(left_free: Path) -> None:
    (left_free.parent / "vllm.py").write_text(VLLM, encoding="utf-8")
    point = [sys.executable, "-m", "benchmarks.memory_point", json.dumps({"engine_args": {}})]
    with subprocess.Popen(point, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the engine runs\n"
        process.terminate()
        assert process.stdout.read() == "the engine is ended\n"
        assert process.wait() == 143


# --- the results, and what is made of them ---

FIRST, SECOND = (point["name"] for point in points()[:2])


def measured(name: str, off_mib: int = 0, *, grow: bool = True) -> dict[str, Any]:
    """A point that took what is predicted with the shipped constants, and so many MiB less; segments `grow` or not."""
    point = next(each for each in points() if each["name"] == name)
    config = shape_config(point["size"], point["precision"])
    shape = read_shape(config["architectures"][0], config)
    assert shape is not None
    args = point["engine_args"]
    pixels = shape.vision.pixels_per_token
    interactive = args["performance_mode"] == "interactivity"
    load = memory.Load(
        max_num_seqs=args["max_num_seqs"],
        max_num_batched_tokens=args["max_num_batched_tokens"],
        image_tokens=point["max_image_pixels"] // pixels,
        cudagraph_sizes=32 if interactive else 3 + 2 * args["max_num_seqs"] // 8,
        sixteen_bit=point["precision"] == "bf16",
    )
    weights = measure_weights(shape, config, {})
    constants = memory.MEASURED if grow else memory.with_fixed_segments(memory.MEASURED)
    laid_out = layout(shape, weights.quantization, pictures=True)
    parts = memory.parts(shape, weights.total, load, constants, layout=laid_out)
    kv = args["kv_cache_memory_bytes"]
    steady = parts.weights + parts.buffers + kv
    peak = steady + parts.activations + parts.vision_encoder + parts.encoder_cache + parts.logits
    lasting = {
        "weights": parts.weights, "kv_cache": kv, "graph_pool": 0, "allocated": steady, "allocated_peak": peak,
        "reserved": peak, "reserved_peak": peak + parts.fragmentation, "process": 0,
    }  # fmt: skip
    transients = {
        "activations": parts.activations, "encoder_output": parts.encoder_cache,
        "vision_encoder": parts.vision_encoder + parts.encoder_cache + parts.activations,
        "encoder_tokens": load.encoder_tokens, "profiled_tokens": load.encoder_tokens,
    }  # fmt: skip
    used = -(-(parts.total + kv) // memory.MIB) - off_mib
    graphs = f"Graph capturing finished in 4 secs, took {parts.cuda_graphs / 2**30:.9f} GiB"
    return point | {
        "peak_mib": used, "starting_peak_mib": used - 300, "expandable_segments": grow, "marlin": True,
        "started": lasting, "loaded": lasting, "transients": transients, "notes": [graphs],
        "vllm": "0.32.0", "torch": "2.13.0", "gpu": "NVIDIA H200",
    }  # fmt: skip


def test_a_run_that_was_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "memory-x.json"
    Results(file, "first", is_measured).add(measured(FIRST))
    Results(file, "first", is_measured).add({"name": SECOND, "exit": 1, "log": ["it died"]})
    again = Results(file, "python -m benchmarks.memory --again", is_measured)
    assert (again.has(FIRST), again.has(SECOND)) == (True, False)
    again.add(measured(SECOND))
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert [point["name"] for point in kept["points"]] == [FIRST, SECOND]
    assert (kept["vllm"], kept["gpu"], kept["command"]) == (
        "0.32.0",
        "NVIDIA H200",
        "python -m benchmarks.memory --again",
    )
    assert [point.name for point in read_points(file)] == [FIRST, SECOND]


def test_sixteen_points_twelve_of_them_of_the_2b() -> None:
    names = [point["name"] for point in points()]
    assert len(set(names)) == 16
    assert sum(name.startswith("2b") for name in names) == 12


@pytest.mark.parametrize("grow", [True, False])
def test_what_took_what_was_predicted_is_scored_so_and_its_constants_are_found_again(
    tmp_path: Path, grow: bool
) -> None:
    file = tmp_path / "memory-x.json"
    for point in points():
        Results(file, "x", is_measured).add(measured(point["name"], grow=grow))
    found = read_points(file)
    fitted_on, scored_on = halves(found)
    assert (len(fitted_on), len(scored_on)) == (6, 10)
    assert all(abs(point.off_mib(point.shipped)) <= 1 for point in found)
    lines = list(table(scored_on, fit(fitted_on)))
    assert lines[-1].startswith("10 of 10 within")
    assert not any(line.endswith("!") for line in lines)
    assert {"weights", "vision_encoder", "fragmentation"} <= {line.split(",")[0].strip() for line in lines}


def test_too_little_predicted_is_marked_where_too_much_is_not(tmp_path: Path) -> None:
    file = tmp_path / "memory-x.json"
    Results(file, "x", is_measured).add(measured(FIRST, off_mib=-60))
    Results(file, "x", is_measured).add(measured(SECOND, off_mib=60))
    under, over = read_points(file)
    assert not under.holds(memory.MEASURED)
    assert over.holds(memory.MEASURED)
    text = memory_table.measured("en", tmp_path, lambda head, rows: "\n".join("|".join(row) for row in (head, *rows)))
    assert "NVIDIA H200, vLLM 0.32.0" in text
    assert "with the shipped ones, 1 of all 2" in text


def test_a_start_that_takes_more_than_serving_is_told(tmp_path: Path) -> None:
    file = tmp_path / "memory-x.json"
    for name, more in ((FIRST, -1), (SECOND, 100)):
        point = measured(name)
        Results(file, "x", is_measured).add(point | {"starting_peak_mib": point["peak_mib"] + more})
    told = [line for line in table(read_points(file), memory.MEASURED) if "while it started" in line]
    assert told == [f"held more than was planned while it started: {SECOND}"]


def test_zero_points_are_larger_on_hopper_without_marlin(tmp_path: Path) -> None:
    file = tmp_path / "memory-x.json"
    name = next(point["name"] for point in points() if point["name"].startswith("2b awq"))
    for marlin in (True, False):
        Results(file, "x", is_measured).add(measured(name) | {"name": f"2b awq {marlin}", "marlin": marlin})
    with_marlin, without = read_points(file)
    assert round((without.weights - with_marlin.weights) / memory.MIB) == 16  # found on an H200


def test_of_points_side_by_side_context_and_graphs_are_one_part(tmp_path: Path) -> None:
    file = tmp_path / "memory-x.json"
    for name in (FIRST, SECOND):
        # What vLLM says of the graphs is of the whole device, and so of the others too.
        told = ["Graph capturing finished in 4 secs, took 9.00 GiB"]
        Results(file, "x", is_measured).add(measured(name) | {"at_once": 2, "notes": told})
    found = read_points(file)
    assert all(abs(point.off_mib(memory.MEASURED)) <= 1 for point in found)
    assert all("context+cuda_graphs" in point.parts and "cuda_graphs" not in point.parts for point in found)
    assert fit(found).graph_of_layer == memory.MEASURED.graph_of_layer
    assert abs(fit(found).context - memory.MEASURED.context) <= memory.MIB
    assert not any(line.endswith("!") for line in table(found, fit(found)))


def test_who_lives_is_told_with_why_the_others_do_not(tmp_path: Path) -> None:
    card = {"card": "rtx3060", "usable_mib": 11588, "peak_mib": 11439}
    answers = {"200": 1127, "429": 3, "429: too many": 3}
    lived = card | {
        "contender": "onecard",
        "lives": True,
        "answers": answers,
        "preemptions": 0.0,
        "ready_s": 60.0,
        "alone": False,
    }
    cause = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 96.00 MiB."
    died = lived | {"contender": "original:fits", "lives": False, "log": ["EngineCore", cause], "alone": True}
    refused = card | {"contender": "vllm", "lives": False, "log": ["ValueError: Free memory is less than desired."]}
    about = {"gpu": "NVIDIA H200", "vllm": "0.32.0", "date": "2026-11-30", "command": "x --contenders onecard,vllm"}
    (tmp_path / "survival-x.json").write_text(json.dumps(about | {"points": [died, refused, lived]}), encoding="utf-8")
    text = survival_table.measured("en", tmp_path, lambda _head, rows: "\n".join(" | ".join(row) for row in rows))
    assert text.splitlines()[0].endswith("by `x --contenders onecard,vllm`, and with `--contenders original:fits`:")
    assert text.splitlines()[2:] == [
        "11,588 MiB (`rtx3060`) | onecard, beside others | yes | 1,127 | 3 | 0 | 11,439 MiB",
        "11,588 MiB (`rtx3060`) | original recipe, with a share that fits | no: CUDA out of memory | 1,127 | 3 | 0 | "
        "11,439 MiB",
        "11,588 MiB (`rtx3060`) | vLLM's defaults | did not start: Free memory is less than desired | 0 | – | – | –",
    ]


def test_without_a_results_file_the_documents_say_so(tmp_path: Path) -> None:
    assert memory_table.measured("en", tmp_path, lambda *_: "") == "Not measured yet."
    assert survival_table.measured("en", tmp_path, lambda *_: "") == "Not measured yet."


@pytest.mark.parametrize("module", ["memory", "survival", "memory_score"])
def test_the_commands_of_the_notes_are_what_the_programs_take(module: str) -> None:
    notes = (ROOT / "benchmarks" / "NOTES.md").read_text("utf-8").replace("\\\n", " ")
    (line,) = re.findall(rf"python -m benchmarks\.{module} (--shape SHAPE .*|benchmarks/\S+)", notes)
    flags = re.findall(r"--[a-z-]+", line.partition("#")[0])
    told = subprocess.run([sys.executable, "-m", f"benchmarks.{module}", "--help"], capture_output=True, text=True)
    assert [flag for flag in flags if flag not in told.stdout] == []
