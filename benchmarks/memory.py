"""How much memory each part takes, measured: `python -m benchmarks.memory --shape FOLDER --out FILE`, on an NVIDIA GPU.

Two policies × two encoder budgets × three precisions of Qwen3-VL-2B, and four points of 4B and 8B that are scored only.
Each point starts vLLM's engine with the bytes of the KV cache fixed, in a process of its own, and gives it the most that it
allows. The peak is the device's used memory, read every 10 ms once the engine is ready, less what was used before it started;
of points that are measured side by side it is what the driver says that their own processes hold. What they hold at most while
they start, when there is no KV cache yet, stands beside it. What the parts took comes from inside the worker. The rest of the
card is held by another process, as on a smaller card.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.contenders import same_environment
from benchmarks.ending import TIED, end, in_order_by_sigterm
from benchmarks.memory_device import (
    MIB,
    device_name,
    holding,
    sampling,
    sampling_started,
    used_mib,
    wait_until_free,
)
from benchmarks.memory_point import READY
from benchmarks.memory_results import Results, is_measured
from benchmarks.say import say
from benchmarks.shapes import Precision, Size, write_shape
from benchmarks.spread import spread

_POINT_SECONDS = 600
_LOOK_SECONDS = 0.2
_KV_BYTES = 3 * 2**30
# Lines of vLLM's log that say what took memory, or time.
_WORTH_KEEPING = (
    "Encoder cache will",
    "Graph captur",
    "Model loading took",
    "torch.compile took",
    "attention backend",
)


@dataclass(frozen=True)
class Policy:
    """What differs between the points besides the weights: the sizes that decide everything that is not weights."""

    name: str
    performance_mode: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_image_pixels: int
    images_per_request: int


# Two policies × an encoder budget (the larger of batched tokens and one picture's tokens) of 2,048 to 8,192 tokens.
_POLICIES = (
    Policy("interactivity, small pictures", "interactivity", 16, 2048, 1280 * 960, 4),
    Policy("throughput, small pictures", "throughput", 64, 4096, 1280 * 960, 4),
    Policy("interactivity, large pictures", "interactivity", 16, 4096, 2496 * 2496, 1),
    Policy("throughput, large pictures", "throughput", 64, 8192, 2496 * 2496, 1),
)
_ONLY_SCORED: tuple[tuple[Size, Precision, int], ...] = (
    ("4b", "bf16", 2),
    ("4b", "awq", 1),
    ("8b", "awq", 0),
    ("8b", "bf16", 3),
)


def points() -> list[dict[str, Any]]:
    """All points in the order in which they are measured: name, shape and engine arguments."""
    precisions: tuple[Precision, ...] = ("bf16", "awq", "fp8")
    wanted: list[tuple[Size, Precision, int]] = [("2b", p, i) for i in (0, 3, 1, 2) for p in precisions]
    # The largest first: side by side, the others fill the time that these take to start.
    return [_point(size, precision, _POLICIES[policy]) for size, precision, policy in (*_ONLY_SCORED, *wanted)]


def _point(size: Size, precision: Precision, policy: Policy) -> dict[str, Any]:
    edge = policy.max_image_pixels
    return {
        "name": f"{size} {precision}, {policy.name}",
        "size": size,
        "precision": precision,
        "max_image_pixels": edge,
        "images_per_request": policy.images_per_request,
        "requests": 64,
        "engine_args": {
            "max_model_len": 8192,
            "max_num_seqs": policy.max_num_seqs,
            "max_num_batched_tokens": policy.max_num_batched_tokens,
            "performance_mode": policy.performance_mode,
            "mm_processor_kwargs": {"size": {"shortest_edge": 65536, "longest_edge": edge}},
            "limit_mm_per_prompt": {"image": policy.images_per_request, "video": 0},
            "kv_cache_memory_bytes": _KV_BYTES,
            # vLLM refuses to start when less is free than this fraction, though the KV cache is given in bytes.
            "gpu_memory_utilization": 0.02,
        },
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--shape", type=Path, required=True, help="checkpoint folder of a Qwen3-VL with tokenizer and processor")
    add(
        "--out", type=Path, required=True, help="the JSON of results; points that it has already are not measured again"
    )
    add("--work", type=Path, help="folder for the shapes, so that the next run finds what vLLM compiles for them")
    add("--gpus", default="0", help="indices of the GPUs to use side by side (default 0)")
    add("--at-once", type=int, default=1, help="points side by side on each GPU (default 1)")
    add("--card-mib", type=int, default=32 * 1024, help="memory left for an engine; the rest is held (default 32768)")
    add("--only", help="measure only the points whose name contains this")
    add("--runner", choices=("v1", "v2"), help="vLLM's model runner (default: vLLM's own choice)")
    add("--fixed-segments", action="store_true", help="torch's allocator as vLLM has it, without segments that grow")
    add("--seconds", type=float, default=3600, help="begin no point after so many seconds")
    options = parser.parse_args()
    in_order_by_sigterm()
    results = Results(options.out, Results.command("benchmarks.memory", sys.argv[1:]), is_measured)
    wanted = [
        point
        for point in points()
        if (not options.only or options.only in point["name"]) and not results.has(point["name"])
    ]
    gpus = [int(gpu) for gpu in options.gpus.split(",")]
    stopping, ends = threading.Event(), time.monotonic() + options.seconds
    say(f"{len(wanted)} points on GPU {options.gpus}")
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peaks = {gpu: stack.enter_context(_watched(gpu, options)) for gpu in gpus}
        for point in wanted:
            point["expandable_segments"] = not options.fixed_segments
            point["folder"] = str(write_shape(point["size"], point["precision"], options.shape, work))

        def do(gpu: int, point: dict[str, Any]) -> None:
            if time.monotonic() > ends:
                return
            folder = point.pop("folder")
            measured = measure(gpu, point, folder, peaks[gpu], options, stopping)
            if stopping.is_set():  # it was ended, and did not die
                return
            results.add(point | measured)
            say(_line(point["name"], measured))

        spread(wanted, gpus * options.at_once, do, stopping)


@contextmanager
def _watched(gpu: int, options: argparse.Namespace) -> Iterator[dict[int, int]]:
    """The card made as small as `--card-mib` says for each of the points that are measured at once, and where these are
    several, what the processes of each hold at most."""
    with ExitStack() as stack:
        stack.enter_context(holding(gpu, options.card_mib * options.at_once))
        yield stack.enter_context(sampling_started(gpu)) if options.at_once > 1 else {}


def measure(
    gpu: int,
    point: dict[str, Any],
    folder: str,
    peaks: dict[int, int],
    options: argparse.Namespace,
    stopping: threading.Event,
) -> dict[str, Any]:
    """Runs the point and watches the device, or where others are measured beside it what the point's own processes hold. A
    point that dies is a result too: its last words stand for it."""
    environment = os.environ | same_environment() | {"CUDA_VISIBLE_DEVICES": str(gpu)}
    # The kernel for 4 bits that consumer cards take (Marlin), on Hopper too.
    environment["VLLM_DISABLED_KERNELS"] = "MacheteLinearKernel"
    if options.runner:
        environment["VLLM_USE_V2_MODEL_RUNNER"] = str(int(options.runner == "v2"))
    alone, before = options.at_once == 1, used_mib(gpu)
    under = before if alone else 0
    described = point | {"engine_args": point["engine_args"] | {"model": folder}}
    command = [*TIED, sys.executable, "-m", "benchmarks.memory_point", json.dumps(described)]
    with tempfile.TemporaryFile("w+") as log, sampling(gpu) if alone else nullcontext(peaks) as peak_of:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        key, starting = gpu if alone else process.pid, None
        ends = time.monotonic() + _POINT_SECONDS
        while process.poll() is None and time.monotonic() < ends and not stopping.wait(_LOOK_SECONDS):
            if starting is None and _says(log, READY):
                # It waits for a line before it goes on: what is held from here on is counted anew.
                starting = peak_of.pop(key, 0)
                _go_on(process)
        end(process)
        code = process.wait()
        log.seek(0)
        lines = log.read().splitlines()
    found = next((line for line in lines if line.startswith("POINT ")), None)
    # The name by NVML, since asking CUDA would make a context and count as memory.
    result: dict[str, Any] = {"runner": options.runner, "marlin": True, "gpu": device_name(gpu)}
    result |= {"at_once": options.at_once, "peak_mib": max(0, peak_of.get(key, 0) - under)}
    result["starting_peak_mib"] = max(0, (starting or 0) - under)
    if found is None:
        result |= {"exit": code, "log": lines[-60:]}
    else:
        result |= json.loads(found.removeprefix("POINT "))
    result["notes"] = [line for line in lines if any(word in line for word in _WORTH_KEEPING)]
    if alone:
        wait_until_free(gpu, before)
    return result


def _says(log: IO[str], words: str) -> bool:
    """Read without moving the place in the file: the point that writes it shares that."""
    return words.encode() in os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0)


def _go_on(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.write(b"\n")
            process.stdin.flush()


def _line(name: str, measured: dict[str, Any]) -> str:
    if "loaded" not in measured:
        return f"{name}: died, exit {measured['exit']}: {measured['log'][-1:]}"
    loaded, transients = measured["loaded"], measured["transients"]
    parts = {key: loaded[key] for key in ("weights", "graph_pool", "kv_cache", "reserved_peak")} | transients
    told = ", ".join(f"{key} {value / MIB:.0f}" for key, value in parts.items())
    return (
        f"{name}: peak {measured['peak_mib']} MiB ({told}), start {measured['start_s']} s, load {measured['load_s']} s"
    )


if __name__ == "__main__":
    main()
