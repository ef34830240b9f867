"""What fewer bits cost and give on a GPU: `python -m benchmarks.quantize --like FOLDER --work DIR`.

1. A checkpoint of Qwen3-VL-2B's shape with random weights (`--like` lends tokenizer and processor).
2. `onecard quantize` for each scheme, and `requantize-head` of what AWQ made; no process may allocate more than a card of
   `--card-mib` has: time, peak of GPU memory, file sizes.
3. Each checkpoint served, by the kernel that vLLM takes and by Marlin alone, which is what a consumer card runs, beside
   transformers' `generate`: memory and speed, by `python -m benchmarks --together`.
4. The output head by itself: its kernel's time at 16 and at 8 bits.

Everything is written to `results/quantize-LABEL.json` as soon as it is known; what 2 and 4 have put there is not made again.
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import cores
from benchmarks.ending import TIED
from benchmarks.quantize_head import head_times
from benchmarks.results import RESULTS, Run, new_run
from benchmarks.say import say
from benchmarks.shapes import write_shape
from serving.errors import OnecardError
from serving.machine.hardware import detect
from serving.plugin import die_with_parent
from serving.prepare import prepare
from serving.quantize.scheme import load_scheme

# The longest first; AWQ's gets its 8-bit head afterwards.
SCHEMES = ("awq", "w8a8", "int8", "fp8")
HEAD8 = "awq-head8"
# vLLM's own choice on a Hopper GPU is Machete and CUTLASS; a consumer card of the Ampere generation has Marlin.
MARLIN = {
    "VLLM_DISABLED_KERNELS": "CutlassW4A8LinearKernel,MacheteLinearKernel,FlashInferFP8ScaledMMLinearKernel,"
    "CutlassFP8ScaledMMLinearKernel,B12xTensorFP8ScaledMMLinearKernel,PerTensorTorchFP8ScaledMMLinearKernel,"
    "ChannelWiseTorchFP8ScaledMMLinearKernel"
}
# Those whose speed is predicted.
CARDS = ("rtx3060", "rtx4060ti", "rtx4090")
# What a program on the GPU takes beside what torch allocates: its CUDA context, 524 MiB on an H200.
_CONTEXT_MIB = 600


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
            self.write()
            say(f"{name}: {json.dumps(self.found[name])}")

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Serving:
    """A checkpoint as it is served: `environment` chooses kernels, `arguments` go to vLLM."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def variant(self, name: str) -> str:
        """As `python -m benchmarks --variant` takes it."""
        variables = (f"{variable}={value}" for variable, value in self.environment.items())
        return f"{name}=" + " ".join([*variables, "--model", str(self.folder), *self.arguments])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantize",
        description=__doc__.split("\n")[0],
        epilog="What follows -- goes to `python -m benchmarks`, as in -- --repetitions 2 --waves 2.",
    )
    add = parser.add_argument
    add("--like", type=Path, required=True, help="a folder with the tokenizer and processor of Qwen3-VL")
    add("--work", type=Path, required=True, help="where checkpoints go: 20 GB")
    add("--size", choices=("2b", "4b", "8b"), default="2b")
    add("--schemes", type=_words, default=list(SCHEMES))
    add("--card-mib", type=int, default=12_288, help="the card that is imitated while quantizing (default 12288)")
    add("--samples", type=int, default=128)
    add(
        "--at-once", type=int, default=1, help="so many schemes at a time, each with its share of the cores (default 1)"
    )
    add("--profile", default="auto")
    add("--kv-cache-mib", type=int, default=4096, help="of each server (default 4096)")
    add(
        "--gpu-memory-utilization",
        type=float,
        default=0.1,
        help="of each server (default 0.1: all of them fit an H200)",
    )
    add("--label", default="h200")
    add("--steps", type=_words, default=["quantize", "head", "serve"])
    add("--out", type=Path, default=RESULTS, help="the folder of the JSON")
    argv = list(sys.argv[1:] if arguments is None else arguments)
    own, to_bench = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    options = parser.parse_args(own)
    notes = Notes(options.out / f"quantize-{options.label}.json")
    run = new_run(f"qwen3-vl-{options.size}, random weights", {})
    words = [Path(word).name if word.startswith("/") else word for word in argv]
    notes.found |= run.model_dump(include={"date", "versions", "machine", "model"})
    command = shlex.join(["python", "-m", "benchmarks.quantize", *words])
    notes.found |= {
        "commands": list(dict.fromkeys([*notes.found.get("commands", ()), command])),
        "card_mib": options.card_mib,
        "at_once": options.at_once,
    }
    source = random_checkpoint(write_shape(options.size, "bf16", options.like, options.work))
    folders = {"bf16": source} | {scheme: options.work / f"{options.size}-{scheme}" for scheme in options.schemes}
    folders[HEAD8] = options.work / f"{options.size}-{HEAD8}"
    if "quantize" in options.steps:
        limit = _limit(options.card_mib)
        with _workers(options.at_once) as workers:
            notes.steps(
                workers,
                {
                    f"quantize {scheme}": partial(quantized, source, scheme, folders[scheme], options.samples, limit)
                    for scheme in options.schemes
                },
            )
            if "awq" in options.schemes and folders["awq"].is_dir():
                notes.steps(workers, {f"quantize {HEAD8}": partial(with_head8, folders["awq"], folders[HEAD8])})
    if "head" in options.steps:
        with _workers(1) as workers:
            notes.steps(workers, {"head": head_times})
    if "serve" in options.steps:
        notes.found["served"] = served(source, _servings(folders), options, to_bench).model_dump()
        notes.found["files_mb"] = {name: _weights_mb(each.folder) for name, each in _servings(folders).items()}
        notes.found["expected"] = {name: _expected(folder) for name, folder in folders.items() if folder.is_dir()}
        notes.write()
    sys.stdout.write(f"written to {notes.file}\n")


def _words(text: str) -> list[str]:
    return text.split(",")


def _servings(folders: Mapping[str, Path]) -> dict[str, Serving]:
    """What is served, in the order of the table: every checkpoint that there is, by each kernel that makes a difference to it,
    and the 16-bit one rounded to FP8 while it is loaded."""
    found = {}
    for name, folder in folders.items():
        if not folder.is_dir():
            continue
        found[name] = Serving(folder)
        if name == "bf16":
            found["fp8-at-loading"] = Serving(folder, arguments=("--quantization", "fp8_per_tensor"))
        elif load_scheme(name).activations == 16 or name == "fp8":
            found[f"{name}-marlin"] = Serving(folder, MARLIN)
    return found


@contextmanager
def _workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with a share of the cores each."""
    context = get_context("spawn")
    shares = context.SimpleQueue()
    for share in cores.share(cores.available(), number):
        shares.put(share)
    with ProcessPoolExecutor(number, context, _take_share, (shares,)) as pool:
        yield pool


def _take_share(shares: Any) -> None:
    die_with_parent(None)  # and so does what it runs
    os.sched_setaffinity(0, shares.get())


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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    tensors = {}
    for name, parameter in model.named_parameters():  # tied ones are named once
        one = name.endswith("norm.weight") or ("norm" in name and name.endswith("weight"))
        drawn = (
            torch.ones(parameter.shape)
            if one
            else torch.randn(parameter.shape, generator=generator, device=device) * 0.02
        )
        tensors[name] = drawn.to("cpu", torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _limit(card_mib: int) -> dict[str, str]:
    """The environment in which torch allocates no more than a card of that size has room for beside a CUDA context; an
    allocation beyond it fails as on that card. So several can be imitated on one GPU."""
    gpus = detect().gpus
    if not gpus:
        return {}
    fraction = (card_mib - _CONTEXT_MIB) / gpus[0].total_mib
    return {"PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{fraction:.4f}"}


def quantized(source: Path, scheme: str, out: Path, samples: int, limit: Mapping[str, str]) -> dict[str, Any]:
    """One run of `onecard quantize`: seconds, the peak of GPU memory that the worker tells, and megabytes."""
    argv = ("quantize", "--model", source, "--scheme", scheme, "--out", out, "--samples", samples, "--no-evaluation")
    return _made(argv, out, limit)


def with_head8(source: Path, out: Path) -> dict[str, Any]:
    """Likewise `onecard requantize-head`."""
    return _made(("requantize-head", "--model", source, "--out", out, "--scheme", HEAD8), out, {})


def _made(argv: Sequence[object], out: Path, limit: Mapping[str, str]) -> dict[str, Any]:
    command = [*TIED, sys.executable, "-m", "serving", *map(str, argv)]
    began = time.monotonic()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=os.environ | limit)
    seconds = round(time.monotonic() - began, 1)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    peak = re.search(r"Peak of GPU memory: ([\d,]+) MiB", done.stderr)
    return {
        "seconds": seconds,
        "peak_gpu_mib": int(peak[1].replace(",", "")) if peak else None,
        "weights_mb": _weights_mb(out),
    }


def served(
    source: Path, servings: Mapping[str, Serving], options: argparse.Namespace, to_bench: Sequence[str] = ()
) -> Run:
    """All of them at once on one GPU and measured in turn, with transformers' `generate` of the 16-bit one beside them. Raises
    CalledProcessError."""
    label = f"quantized-{options.label}"
    variants = [word for name, each in servings.items() for word in ("--variant", each.variant(name))]
    subprocess.run(
        [
            *(*TIED, sys.executable, "-m", "benchmarks", "latency", "throughput", "--together"),
            *("--contenders", ",".join(["transformers", *(f"onecard:{name}" for name in servings)]), *variants),
            *("--profile", options.profile, "--model", str(source), "--kv-cache-mib", str(options.kv_cache_mib)),
            *("--gpu-memory-utilization", str(options.gpu_memory_utilization), "--clients", "4,32"),
            *("--label", label, "--out", str(options.work), "--caches", str(options.work / "caches"), *to_bench),
        ],
        check=True,
    )
    return Run.model_validate_json((options.work / f"speed-{label}.json").read_text(encoding="utf-8"))


def _expected(folder: Path) -> dict[str, Any]:
    """What the plan says of its speed on the cards that have no place here: a prediction, with its formula."""
    plans = {card: prepare(card, str(folder)).plan for card in CARDS}
    return {card: plan.expected.model_dump() for card, plan in plans.items() if plan.fits}


def _weights_mb(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6, 1)


if __name__ == "__main__":
    main()
