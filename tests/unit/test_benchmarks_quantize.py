"""The measurement of quantized checkpoints: its steps, and its tables."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quantize_table
from benchmarks.quantize import KERNELS, Notes, _servings
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


def test_a_kernel_is_measured_where_it_makes_a_difference(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("bf16", "awq", "fp8", "int8")}
    for name in ("bf16", "awq", "fp8"):
        folders[name].mkdir()
    served = _servings(folders)
    assert list(served) == [
        "bf16, vllm's choice",
        "awq, vllm's choice",
        "awq, marlin",
        "fp8, vllm's choice",
        "fp8 at loading",
    ]
    assert served["awq, marlin"].environment == KERNELS["marlin"]
    assert (served["fp8 at loading"].folder, served["fp8 at loading"].arguments) == (
        folders["bf16"],
        ("--quantization", "fp8"),
    )


FOUND: dict[str, Any] = {
    "date": "2026-11-23",
    "versions": {"vllm": "0.32.0"},
    "machine": {"cpu": "a CPU", "gpu": "NVIDIA H200"},
    "model": "qwen3-vl-2b, random weights",
    "command": "python -m benchmarks.quantize",
    "card_mib": 12_288,
    "quantize awq": {"seconds": 101.4, "peak_gpu_mib": 5123, "weights_mb": 2100.04},
    "quantize fp8": {"failed": "Traceback\nOnecardError: it broke"},
    "serve awq, marlin": {
        "ready_s": 80.2,
        "weights_mb": 2100.04,
        "memory": {"memory_mib": {"weights": 2400, "activations": 100, "kv_cache": 8192}},
        "expected": {"rtx3060": {"decode_tokens_per_s": 186.4, "source": "360 GB/s over something"}},
        "speed": {
            "latency, 1 client": {"first_token_ms": 44.1, "per_token_ms": 2.5, "gpu_busy": 0.71},
            "throughput, 4 clients": {"total_ms": 512.3},
            "throughput, 64 clients": {"images_per_s": 36.92},
        },
    },
    "serve int8, marlin": {"failed": "did not start"},
    "head": {"16 bits": 148.2, "awq-head8": 80.1},
}


def test_the_tables_tell_what_was_measured_and_what_failed(tmp_path: Path) -> None:
    assert quantize_table.measured(tmp_path) == "Not measured yet."
    (tmp_path / "quantize-h200.json").write_text(json.dumps(FOUND), "utf-8")
    text = quantize_table.measured(tmp_path)
    assert "NVIDIA H200, vLLM 0.32.0, 2026-11-23, by `python -m benchmarks.quantize`" in text
    assert "| `awq` | 101 s | 5,123 MiB | 2,100 MB |" in text
    assert "| `fp8` | failed: OnecardError: it broke |" in text
    assert "| awq, marlin | 2,100 MB | 80 s | 2,400 MiB | 2,500 MiB | 44 ms | 400 | 512 ms | 36.9 | 71% |" in text, (
        "the KV cache is not counted, and tokens a second are the inverse of the time of one"
    )
    assert "| int8, marlin | failed: did not start |" in text
    assert "| awq | 186 |" in text
    assert "148.2 µs (16 bits), 80.1 µs (awq-head8)" in text


def test_what_a_server_did_not_tell_is_a_dash() -> None:
    silent = FOUND["serve awq, marlin"] | {"memory": {}, "speed": {}, "expected": {}}
    text = quantize_table.as_text({**FOUND, "serve awq, marlin": silent, "head": {"failed": "no GPU"}})
    assert "| awq, marlin | 2,100 MB | 80 s | – | – | – | – | – | – | – |" in text
    assert "Predicted" not in text
    assert "The output head" not in text
