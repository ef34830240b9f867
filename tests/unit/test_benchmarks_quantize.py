"""The measurement of quantized checkpoints: its steps, and its tables."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory_device, quantize, quantize_table
from benchmarks.contenders import variant
from benchmarks.load import Figures
from benchmarks.quantize import MARLIN, Notes, _servings
from benchmarks.results import Facts, Row, Run
from benchmarks.shapes import write_shape
from serving.errors import OnecardError


def test_steps_are_written_as_they_end_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results" / "quantize-x.json"
    made: list[str] = []

    def fail() -> Any:
        raise OnecardError("no space left")

    def make() -> dict[str, int]:
        made.append("awq")
        return {"seconds": 3}

    with ThreadPoolExecutor(1) as workers:
        notes = Notes(file)
        notes.found["model"] = "m"
        notes.steps(workers, {"quantize fp8": fail, "quantize awq": make})
        assert json.loads(file.read_text("utf-8")) == {
            "model": "m",
            "quantize fp8": {"failed": "no space left"},
            "quantize awq": {"seconds": 3},
        }
        again = Notes(file)
        again.steps(workers, {"quantize fp8": lambda: {"seconds": 1}, "quantize awq": make})
    assert (again.found["quantize fp8"], made) == ({"seconds": 1}, ["awq"])
    assert "quantize fp8: {" in capsys.readouterr().out


def test_one_scheme_alone_can_be_measured(tmp_path: Path) -> None:
    """What comes of a checkpoint without weights is a row; no other scheme is missed."""
    like = Path(__file__).parents[2] / "serving" / "demo" / "model"
    source = write_shape("2b", "bf16", like, tmp_path)
    (source / "model.safetensors").touch()
    quantize.main(
        [*("--like", str(like), "--work", str(tmp_path), "--out", str(tmp_path)), "--steps=quantize", "--schemes=fp8"]
    )
    found = json.loads((tmp_path / "quantize-h200.json").read_text("utf-8"))
    assert [name for name in found if name.startswith("quantize ")] == ["quantize fp8"]
    assert "model.safetensors" in found["quantize fp8"]["failed"]


def test_a_kernel_is_measured_where_it_makes_a_difference(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("bf16", "awq", "w8a8", "fp8", "int8")}
    for name in ("bf16", "awq", "w8a8", "fp8"):
        folders[name].mkdir()
    served = _servings(folders)
    assert list(served) == ["bf16", "fp8-at-loading", "awq", "awq-marlin", "w8a8", "fp8", "fp8-marlin"]
    assert served["awq-marlin"].environment == MARLIN
    words = variant(served["fp8-at-loading"].variant("fp8-at-loading"))
    assert (words.model, words.argv) == (str(folders["bf16"]), ("--quantization", "fp8_per_tensor"))
    assert variant(served["awq-marlin"].variant("x")).environment == MARLIN


def row(question: str, case: str, figures: Figures, contender: str = "onecard:awq-marlin") -> Row:
    return Row(question=question, case=case, contender=contender, medians=figures)


RUN = Run(
    date="2026-11-23",
    command="",
    versions={},
    machine={},
    model="m",
    settings={"tokens": 128, "repetitions": 3, "clients": [4, 32], "kv_cache_mib": 4096, "profile": "rtx4090"},
    contenders={
        "transformers": Facts(title="transformers", gpu_mib=5000),
        "onecard:awq-marlin": Facts(title="x", gpu_mib=8196, weights_gib=2.0, loading_s=6.4),
        "onecard:int8": Facts(title="y", failed="did not start: \nno kernel"),
    },
    rows=[
        row("latency", "1 client", {"first_token_ms": 4044.4, "total_ms": 4044.4, "gpu_busy": 0.31}, "transformers"),
        row("latency", "1 client", {"first_token_ms": 44.1, "per_token_ms": 2.5, "total_ms": 361.6, "gpu_busy": 0.71}),
        row("throughput", "4 clients", {"total_ms": 512.3}),
        row("throughput", "32 clients", {"images_per_s": 36.92, "gpu_busy": 0.93}),
    ],
)
FOUND: dict[str, Any] = {
    "date": "2026-11-23",
    "versions": {"vllm": "0.32.0"},
    "machine": {"cpu": "a CPU", "gpu": "NVIDIA H200"},
    "model": "qwen3-vl-2b, random weights",
    "commands": ["python -m benchmarks.quantize", "python -m benchmarks.quantize --steps serve"],
    "card_mib": 12_288,
    "at_once": 3,
    "quantize awq": {"seconds": 101.4, "peak_gpu_mib": 5123, "weights_mb": 2100.04},
    "quantize fp8": {"failed": "Traceback\nOnecardError: it broke"},
    "served": RUN.model_dump(),
    "files_mb": {"bf16": 4255.1, "awq-marlin": 2100.04, "int8": 3000.0},
    "expected": {"awq": {"rtx3060": {"decode_tokens_per_s": 186.4, "source": "360 GB/s over something"}}},
    "head": {"calls": 50, "microseconds": {"16 bits": 148.2, "awq-head8": 80.1}},
}


def test_the_tables_tell_what_was_measured_and_what_failed(tmp_path: Path) -> None:
    assert quantize_table.measured(tmp_path) == "Not measured yet."
    (tmp_path / "quantize-h200.json").write_text(json.dumps(FOUND), "utf-8")
    text = quantize_table.measured(tmp_path)
    assert "NVIDIA H200, vLLM 0.32.0, 2026-11-23, by `python -m benchmarks.quantize` and `python" in text
    assert "a card of 12,288 MiB has, 3 schemes at a time on one GPU:" in text
    assert "| `awq` | 101 s | 5,123 MiB | 2,100 MB |" in text
    assert "| `fp8` | failed: OnecardError: it broke |" in text
    assert (
        "| `awq-marlin` | 2,100 MB | 2,048 MiB | 6 s | 4,100 MiB | 44 ms | 400 | 362 ms | 512 ms | 36.9 | 71% | 93% |"
    ) in text, "the KV cache is not counted, and tokens a second are the inverse of the time of one"
    assert "| `transformers` | 4,255 MB | – | – | 5,000 MiB | 4,044 ms | – | 4,044 ms | – | – | 31% | – |" in text
    assert "| `int8` | failed: no kernel |" in text
    assert "images/s, 32 clients" in text
    assert "| `awq` | 186 |" in text
    assert "one token, 50 calls in a row: 148.2 µs (16 bits), 80.1 µs (awq-head8)" in text


def test_what_was_not_measured_is_left_out() -> None:
    text = quantize_table.as_text(
        FOUND | {"served": None, "expected": None, "head": {"failed": "no GPU"}, "at_once": 1}
    )
    assert "| `awq` | 101 s | 5,123 MiB | 2,100 MB |" in text
    assert "at a time" not in text
    for word in ("Served", "Predicted", "output head"):
        assert word not in text


def test_a_gpu_is_asked_what_an_end_gave_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_device, "_STILL_SECONDS", 0)
    used = iter((30_000, 30_000, 30_000, 21_000, 18_000, 18_000, 7))  # it takes the driver a moment
    monkeypatch.setattr(memory_device, "used_mib", lambda _gpu: next(used))
    with memory_device.giving_back(0) as given:
        assert given == []
    assert given == [12_000]
    with memory_device.giving_back(None) as given:
        pass
    assert given == []
