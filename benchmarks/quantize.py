"""What fewer bits cost and give on a GPU: `python -m benchmarks.quantize --like FOLDER --work DIR`.

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
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import cores
from benchmarks.memory_device import holding
from benchmarks.results import RESULTS, new_run
from benchmarks.say import say
from benchmarks.shapes import write_shape
from serving.errors import OnecardError
from serving.evaluate.serving import served
from serving.hardware import detect
from serving.prepare import prepare
from serving.quantize.scheme import load_scheme

SCHEMES = ("awq", "awq-head8", "w8a8", "fp8", "int8")  # the longest first
# vLLM's own choice on a Hopper GPU is Machete; a consumer card has Marlin.
KERNELS: dict[str, dict[str, str]] = {
    "vllm's choice": {},
    "marlin": {"VLLM_DISABLED_KERNELS": "MacheteLinearKernel,CutlassW4A8LinearKernel"},
}
# Those whose speed is predicted.
CARDS = ("rtx3060", "rtx4060ti", "rtx4090")
_CLIENTS = "4,64"


class Notes:
    """The result file, written after each step."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def steps(self, workers: Executor, measures: Mapping[str, Callable[[], Any]]) -> None:
        """What each step came to, as many at a time as there are workers; those whose result the file has are left out. A
        failure is noted and ends nothing."""
        running = {
            workers.submit(measure): name
            for name, measure in measures.items()
            if name not in self.found or "failed" in self.found[name]
        }
        say(f"{len(running)} steps: {', '.join(running.values())}")
        for done in as_completed(running):
            name = running[done]
            try:
                self.found[name] = done.result()
            except (subprocess.CalledProcessError, OSError, RuntimeError, ValueError, OnecardError) as error:
                self.found[name] = {"failed": str(error)[-500:]}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
            say(f"{name}: {json.dumps(self.found[name])}")


@dataclass(frozen=True)
class Serving:
    """A checkpoint as it is served: `environment` chooses kernels, `arguments` go to vLLM."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--like", type=Path, required=True, help="a folder with the tokenizer and processor of Qwen3-VL")
    add("--work", type=Path, required=True, help="where checkpoints go: 20 GB")
    add("--size", choices=("2b", "4b", "8b"), default="2b")
    add("--schemes", type=_words, default=list(SCHEMES))
    add("--card-mib", type=int, default=12_288, help="the card that is imitated while quantizing (default 12288)")
    add("--samples", type=int, default=128)
    add("--profile", default="auto")
    add("--gpus", type=_words, default=[], help="as 0,1: steps spread over them, each with its share of the cores")
    add("--label", default="h200")
    add("--steps", type=_words, default=["quantize", "serve", "head"])
    add("--out", type=Path, default=RESULTS, help="the folder of the JSON")
    options = parser.parse_args(arguments)
    notes = Notes(options.out / f"quantize-{options.label}.json")
    run = new_run(f"qwen3-vl-{options.size}, random weights", {})
    words = [Path(word).name if word.startswith("/") else word for word in arguments or sys.argv[1:]]
    notes.found |= run.model_dump(include={"date", "versions", "machine", "model"})
    notes.found |= {
        "command": shlex.join(["python", "-m", "benchmarks.quantize", *words]),
        "card_mib": options.card_mib,
    }
    source = random_checkpoint(write_shape(options.size, "bf16", options.like, options.work))
    folders = {"bf16": source} | {scheme: options.work / f"{options.size}-{scheme}" for scheme in options.schemes}
    first: dict[str, Callable[[], Any]] = {}
    if "quantize" in options.steps:
        for scheme in options.schemes:
            step = partial(made, source, scheme, folders[scheme], options.samples, options.card_mib)
            first[f"quantize {scheme}"] = step
    if "head" in options.steps:
        first["head"] = head_times
    with _workers(options.gpus) as workers:
        notes.steps(workers, first)
        if "serve" in options.steps:
            notes.steps(
                workers,
                {f"serve {name}": partial(measured, one, options.profile) for name, one in _servings(folders).items()},
            )
    sys.stdout.write(f"written to {notes.file}\n")


def _words(text: str) -> list[str]:
    return text.split(",")


def _servings(folders: dict[str, Path]) -> dict[str, Serving]:
    """What is served, in the order of the table: every checkpoint that there is, by each kernel that makes a difference to it,
    and the 16-bit one rounded to FP8 while it is loaded."""
    found = {
        f"{name}, {kernel}": Serving(folder, environment)
        for name, folder in folders.items()
        for kernel, environment in KERNELS.items()
        if folder.is_dir() and (name.startswith(("awq", "w4", "int8")) or not environment)
    }
    return found | {"fp8 at loading": Serving(folders["bf16"], arguments=("--quantization", "fp8"))}


@contextmanager
def _workers(gpus: Sequence[str]) -> Iterator[ProcessPoolExecutor]:
    """A process for each GPU, which sees no other and has its share of the cores; one like this one where none is named."""
    context = get_context("spawn")
    places = context.SimpleQueue()
    shares = cores.share(cores.available(), len(gpus) or 1)
    for number, share in enumerate(shares):
        places.put((gpus[number] if gpus else None, share))
    with ProcessPoolExecutor(len(shares), context, _take_place, (places,)) as pool:
        yield pool


def _take_place(places: Any) -> None:
    gpu, share = places.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.sched_setaffinity(0, share)


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


def made(source: Path, scheme: str, out: Path, samples: int, card_mib: int) -> dict[str, Any]:
    """One run of `onecard quantize` on a card of `card_mib`, another process holding the rest of the GPU: seconds, the peak of
    GPU memory that the worker tells, and bytes."""
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
    with holding(0, card_mib) if detect().gpus else nullcontext():
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--samples", str(samples), "--no-evaluation"], stderr=subprocess.PIPE, text=True, check=False
        )
        seconds = round(time.monotonic() - began, 1)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    peak = re.search(r"Peak of GPU memory: ([\d,]+) MiB", done.stderr)
    return {
        "seconds": seconds,
        "peak_gpu_mib": int(peak[1].replace(",", "")) if peak else None,
        "weights_mb": _weights_mb(out),
    }


def measured(serving: Serving, profile: str) -> dict[str, Any]:
    """Served once: how long it took to be ready, memory as the server tells it, then speed by `python -m benchmarks`."""
    import httpx

    folder = serving.folder
    os.environ.update(serving.environment)
    try:
        began = time.monotonic()
        with served(str(folder), profile, serving.arguments) as url:
            ready_s = round(time.monotonic() - began, 1)
            status = httpx.get(f"{url}/onecard/status", timeout=30, trust_env=False).json()
            label = re.sub(
                r"[^a-z0-9]+", "-", "-".join([folder.name, *serving.environment.values(), *serving.arguments]).lower()
            )
            subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks", "latency", "throughput", "--url", f"{url}/v1"),
                    *("--name", folder.name, "--clients", _CLIENTS, "--waves", "2", "--label", label),
                    *("--out", str(folder.parent)),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            run = json.loads((folder.parent / f"speed-{label}.json").read_text(encoding="utf-8"))
    finally:
        for name in serving.environment:
            del os.environ[name]
    return {
        "ready_s": ready_s,
        "weights_mb": _weights_mb(folder),
        "memory": status.get("measured"),
        "planned_mib": status["plan"]["memory_mib"],
        "expected": _expected(folder),
        "speed": {f"{row['question']}, {row['case']}": row["medians"] for row in run["rows"]},
    }


def _expected(folder: Path) -> dict[str, Any]:
    """What the plan says of its speed on the cards that have no place here: a prediction, with its formula."""
    plans = {card: prepare(card, str(folder)).plan for card in CARDS}
    return {card: plan.expected.model_dump() for card, plan in plans.items() if plan.fits}


def _weights_mb(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6, 1)


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
