"""What fewer bits cost and give on a GPU: `python -m benchmarks.quantize --like FOLDER --work DIR`, about 40 minutes.

1. A checkpoint of Qwen3-VL-2B's shape with random weights (`--like` lends tokenizer and processor).
2. `onecard quantize` for each scheme, all but `--card-mib` of the GPU held by another process: time, peak memory, file sizes.
3. Each checkpoint served, by the kernel that vLLM takes and by Marlin alone: memory and speed, by `python -m benchmarks`.
4. The output head by itself: its kernel's time at 16 and at 8 bits.

Everything is written to `results/quantize-LABEL.json` as soon as it is known; steps that are in it already are not repeated.
Random weights have real sizes and real speed, and no words: what they lose in answers is benchmarks/quality.py's.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS
from benchmarks.shapes import write_shape
from serving.evaluate.serving import served
from serving.hardware import detect
from serving.quantize.scheme import load_scheme

SCHEMES = ("fp8", "int8", "w8a8", "awq", "awq-head8")
# vLLM's own choice on a Hopper GPU is Machete; a consumer card has Marlin.
KERNELS: dict[str, dict[str, str]] = {
    "vllm's choice": {},
    "marlin": {"VLLM_DISABLED_KERNELS": "MacheteLinearKernel,CutlassW4A8LinearKernel"},
}
_CLIENTS = "1,16,64"
_MIB = 2**20


class Notes:
    """The result file, written after each step."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def step(self, name: str, measure: Callable[[], Any]) -> Any:
        """What a step came to: from the file where it is known. A failure is noted and ends nothing."""
        if name not in self.found or "failed" in self.found[name]:
            sys.stdout.write(f"{name} …\n")
            sys.stdout.flush()
            try:
                self.found[name] = measure()
            except (subprocess.CalledProcessError, OSError, RuntimeError, ValueError) as error:
                self.found[name] = {"failed": str(error)[-500:]}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
            sys.stdout.write(f"{name}: {json.dumps(self.found[name])}\n")
        return self.found[name]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--like", type=Path, required=True, help="a folder with the tokenizer and processor of Qwen3-VL")
    add("--work", type=Path, required=True, help="where checkpoints go: 20 GB")
    add("--size", choices=("2b", "4b", "8b"), default="2b")
    add("--schemes", type=lambda text: text.split(","), default=list(SCHEMES))
    add("--card-mib", type=int, default=12_288, help="the card that is imitated while quantizing (default 12288)")
    add("--samples", type=int, default=128)
    add("--profile", default="auto")
    add("--label", default="h200")
    add("--steps", type=lambda text: text.split(","), default=["quantize", "serve", "head"])
    options = parser.parse_args(arguments)
    notes = Notes(RESULTS / f"quantize-{options.label}.json")
    notes.found |= {
        "date": date.today().isoformat(),
        "machine": machine(),
        "model": f"qwen3-vl-{options.size}, random weights",
    }
    source = random_checkpoint(write_shape(options.size, "bf16", options.like, options.work))
    folders = {"bf16": source} | {scheme: options.work / f"{options.size}-{scheme}" for scheme in options.schemes}
    if "quantize" in options.steps:
        with held(options.card_mib):
            for scheme in options.schemes:
                notes.step(f"quantize {scheme}", partial(made, source, scheme, folders[scheme], options.samples))
    if "serve" in options.steps:
        for name, folder in folders.items():
            for kernel, environment in KERNELS.items():
                if folder.is_dir() and (name.startswith(("awq", "w4", "int8")) or not environment):
                    notes.step(f"serve {name}, {kernel}", partial(measured, folder, environment, options.profile))
    if "head" in options.steps:
        notes.step("head", head_times)
    sys.stdout.write(f"written to {notes.file}\n")


def machine() -> str:
    gpus = detect().gpus
    return gpus[0].name if gpus else "CPU"


def random_checkpoint(folder: Path) -> Path:
    """Fills the folder of a shape with normal weights of the config's spread, tensor by tensor."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    if (folder / "model.safetensors").is_file():
        return folder
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, parameter in model.named_parameters():  # tied ones are named once
        one = name.endswith("norm.weight") or ("norm" in name and name.endswith("weight"))
        drawn = torch.ones(parameter.shape) if one else torch.randn(parameter.shape, generator=generator) * 0.02
        tensors[name] = drawn.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@contextmanager
def held(card_mib: int) -> Iterator[None]:
    """All of the GPU but `card_mib` is held by another process, as on a smaller card; nothing without a GPU."""
    gpus = detect().gpus
    if not gpus:
        yield
        return
    hold = max(0, gpus[0].free_mib - card_mib)
    script = (
        f"import sys, torch; held = torch.empty({hold} << 20, dtype=torch.uint8, device='cuda'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError("the rest of the GPU could not be held")
        yield
    finally:
        process.kill()
        process.wait()


def made(source: Path, scheme: str, out: Path, samples: int) -> dict[str, Any]:
    """One run of `onecard quantize`: seconds, the peak of GPU memory that the worker tells, and bytes."""
    command = [
        sys.executable,
        "-m",
        "serving",
        "quantize",
        "--model",
        str(source),
        "--scheme",
        scheme,
        "--out",
        str(out),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--samples", str(samples), "--no-evaluation"], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    peak = re.search(r"Peak of GPU memory: ([\d,]+) MiB", done.stderr)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "peak_gpu_mib": int(peak[1].replace(",", "")) if peak else None,
        "weights_mb": round(sum(file.stat().st_size for file in out.glob("*.safetensors")) / 1e6, 1),
    }


def measured(folder: Path, environment: dict[str, str], profile: str) -> dict[str, Any]:
    """Served once: memory as the server tells it, then speed by `python -m benchmarks`."""
    import httpx

    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with served(str(folder), profile) as url:
            status = httpx.get(f"{url}/onecard/status", timeout=30, trust_env=False).json()
            label = f"quantize-{folder.name}-{'-'.join(environment.values()) or 'own'}"[:60]
            subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks", "latency", "throughput", "--url", f"{url}/v1"),
                    *("--name", folder.name, "--clients", _CLIENTS, "--label", label, "--out", str(folder.parent)),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            run = json.loads((folder.parent / f"speed-{label}.json").read_text(encoding="utf-8"))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return {
        "memory": status.get("measured"),
        "planned_mib": status["plan"]["memory_mib"],
        "speed": {f"{row['question']}, {row['case']}": row["medians"] for row in run["rows"]},
    }


def head_times(rows: int = 151_936, width: int = 2048, device: str | None = None) -> dict[str, float]:
    """Microseconds of one token through the output head, by vLLM's own linear layers: 16 bits, and each kind of 8."""
    import tempfile

    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.layers.linear import ReplicatedLinear
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    schemes = ("awq-head8", "awq-head8-a8") if where == "cuda" else ("awq-head8-a8",)
    found = {}
    with set_current_vllm_config(VllmConfig()), tempfile.NamedTemporaryFile() as meeting:
        init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "nccl" if where == "cuda" else "gloo")
        initialize_model_parallel(1, 1)
        for name in ("16 bits", *schemes):
            head = None if name == "16 bits" else load_scheme(name).head
            group = head.group() if head else None
            quantization = (
                CompressedTensorsConfig.from_config(
                    {"config_groups": {"head": group}, "format": group["format"], "ignore": []}
                )
                if group
                else None
            )
            with torch.device(where):
                layer = ReplicatedLinear(
                    width, rows, bias=False, params_dtype=torch.bfloat16, quant_config=quantization, prefix="lm_head"
                )
            for key, parameter in layer.named_parameters():
                if parameter.dtype.is_floating_point:
                    parameter.data.fill_(0.01)
                elif not key.endswith("shape"):
                    parameter.data.random_(0, 100)
            layer.quant_method.process_weights_after_loading(layer)
            found[name] = _microseconds(layer, torch.randn(1, width, dtype=torch.bfloat16, device=where))
    return found


def _microseconds(layer: Any, row: Any) -> float:
    """The median of 50 calls, one token each."""
    import torch

    def now() -> float:
        if row.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    times = []
    for _ in range(60):
        began = now()
        layer(row)
        times.append(now() - began)
    return round(sorted(times[10:])[25] * 1e6, 1)


if __name__ == "__main__":
    main()
