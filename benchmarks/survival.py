"""Does it live? `python -m benchmarks.survival --shape FOLDER --out FILE`, on an NVIDIA GPU.

On an imitated card (another process holds the rest of the GPU's memory) each contender serves Qwen3-VL-2B, in AWQ with random
weights, to 64 clients for two minutes, which send the largest pictures and the most of them that are allowed, all distinct,
mixed with long texts. What counts: did the server die, what was refused, how often was a running answer put back into the
queue, and how much was in use.

vLLM's defaults are those of the card. By itself vLLM would choose how much it does at a time by the memory of the whole GPU.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from benchmarks.contenders import same_environment
from benchmarks.ending import TIED, end, in_order_by_sigterm
from benchmarks.memory_device import (
    device_name,
    holding,
    sampling,
    sampling_started,
    total_mib,
    used_mib,
    wait_until_free,
)
from benchmarks.memory_results import Results
from benchmarks.say import say
from benchmarks.shapes import write_shape
from benchmarks.spread import spread
from benchmarks.survival_load import answers, ask
from serving.machine.port import free_port
from serving.planning.plan import Plan
from serving.prepare import prepare

_READY_SECONDS = 400
_DUMMY = ("--load-format", "dummy")
# What vLLM takes of a card by default, and what the original recipe takes.
_SHARES = {"vllm": 0.92, "original": 0.9}
# What vLLM 0.32 takes at a time by default on a GPU of less than 70 GiB (EngineArgs.get_batch_defaults).
_BATCHED_TOKENS, _NUM_SEQS = "2048", "256"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survival", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--shape", type=Path, required=True, help="checkpoint folder of a Qwen3-VL with tokenizer and processor")
    add("--out", type=Path, required=True, help="the JSON of results; what it has already is not measured again")
    add("--work", type=Path, help="folder for the shape, so that the next run finds what vLLM compiles for it")
    add("--cards", default="rtx3060", help="profiles, with commas (default rtx3060)")
    add(
        "--contenders",
        default="onecard",
        help="of onecard, vllm, original, vllm:fits, original:fits, with commas; the last two take no more than a desktop "
        "leaves them (default onecard)",
    )
    add("--gpus", default="0", help="indices of the GPUs to use side by side (default 0)")
    add(
        "--at-once",
        type=int,
        default=1,
        help="onecards side by side on each GPU, which live if none held more than its card has (default 1)",
    )
    add("--seconds", type=float, default=120, help="how long the clients ask (default 120)")
    options = parser.parse_args()
    if options.at_once > 1 and options.contenders != "onecard":
        parser.error("--at-once is for onecard alone: vLLM by itself measures at its start how much is free")
    in_order_by_sigterm()
    command = Results.command("benchmarks.survival", sys.argv[1:])
    results = Results(options.out, command, lambda run: "lives" in run)
    wanted = [
        (card, contender)
        for contender, card in itertools.product(options.contenders.split(","), options.cards.split(","))
        if not results.has(_name(card, contender))
    ]
    stopping = threading.Event()
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = write_shape("2b", "awq", options.shape, work)
        gpus = [int(gpu) for gpu in options.gpus.split(",")]
        alone = options.at_once == 1

        def do(gpu: int, run: tuple[str, str]) -> None:
            result = survive(*run, model, gpu, options.seconds, stopping, alone=alone)
            if stopping.is_set():
                return
            results.add(result)
            say({key: value for key, value in result.items() if key not in ("log", "planned_mib")})

        spread(wanted, gpus * options.at_once, do, stopping)


def _name(card: str, contender: str) -> str:
    return f"{card}, {contender}"


def survive(
    card: str, contender: str, model: Path, gpu: int, seconds: float, stopping: threading.Event, *, alone: bool
) -> dict[str, Any]:
    """One contender on one card: from its start to its end, or until nobody wants to know any more. Not `alone`, nobody holds
    the rest of the GPU: it lives if it never held more than the card has."""
    plan, port = _plan(card, model), free_port()
    with (
        holding(gpu, plan.gpu.usable_mib) if alone else nullcontext(),
        tempfile.TemporaryFile("w+") as log,
        tempfile.TemporaryDirectory() as state_dir,
        sampling(gpu) as of_device,
        sampling_started(gpu) if not alone else nullcontext(dict[int, int]()) as of_processes,
    ):
        before = used_mib(gpu)
        environment = os.environ | same_environment() | {"CUDA_VISIBLE_DEVICES": str(gpu)}
        environment |= {"ONECARD_EXPORTER_PORT": "0", "ONECARD_STATE_DIR": state_dir}
        result: dict[str, Any] = {
            "name": _name(card, contender),
            "gpu": device_name(gpu),
            "vllm": version("vllm"),
            "card": card,
            "contender": contender,
            "alone": alone,
            "usable_mib": plan.gpu.usable_mib,
            "planned_mib": plan.memory_mib.model_dump(),
            "kv_tokens": plan.capacity.kv_tokens,
            "lives": False,
        }
        began = time.monotonic()
        command = [*TIED, *_command(contender, card, plan, model, gpu, port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            if _wait_ready(server, port, stopping):
                result["ready_s"] = round(time.monotonic() - began, 1)
                result["answers"] = ask(port, plan, seconds, stopping)
                result["preemptions"] = _metric(port, "vllm:num_preemptions_total")
                result["status"] = _status(port)
                # onecard starts its server again when that has died.
                restarted = result["status"] and result["status"]["restarts"]
                result["lives"] = server.poll() is None and answers(port, plan) and not restarted
        finally:
            end(server)
            if alone:
                wait_until_free(gpu, before)
        result["peak_mib"] = of_device.get(gpu, 0) - before if alone else of_processes.get(server.pid, 0)
        result["lives"] = result["lives"] and result["peak_mib"] <= plan.gpu.usable_mib
        if not result["lives"]:
            log.seek(0)
            result["log"] = _why([*log.read().splitlines(), *_own_log(Path(state_dir) / str(port))])
    return result


def _own_log(run_dir: Path) -> list[str]:
    """onecard keeps vLLM's words in a file of its own."""
    file = run_dir / "server.log"
    return file.read_text(errors="replace").splitlines() if file.is_file() else []


def _why(lines: list[str]) -> list[str]:
    """What a log says of a death, the cause first; where it names none, its end."""
    words = ("OutOfMemoryError: ", "ValueError: ", "RuntimeError: ", "EngineDeadError")
    return [line[:300] for line in lines if any(word in line for word in words)][:10] or lines[-15:]


def _plan(card: str, model: Path) -> Plan:
    """The card's, as if it were here and empty: so much of it is left free."""
    subject = prepare(card, str(model), user_argv=_DUMMY).subject
    return replace(subject, hardware=replace(subject.hardware, gpus=())).plan({"load_format": "dummy"})


def _command(contender: str, card: str, plan: Plan, model: Path, gpu: int, port: int) -> list[str]:
    if contender == "onecard":
        own = ["serve", "--profile", card, "--model", str(model), "--port", str(port)]
        return [sys.executable, "-m", "serving", *own, "--", *_DUMMY]
    vllm = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    vllm += [*_DUMMY, "--port", str(port), "--host", "127.0.0.1"]
    # Its own default share, of the imitated card. Its default context is the model's whole, which no such card holds.
    kind, _, fits = contender.partition(":")
    most = plan.gpu.usable_mib - plan.memory_mib.context if fits else plan.gpu.total_mib
    share = min(_SHARES[kind] * plan.gpu.total_mib, most) / total_mib(gpu)
    vllm += ["--gpu-memory-utilization", f"{share:.4f}", "--max-num-batched-tokens", _BATCHED_TOKENS]
    if kind == "original":
        return [*vllm, "--quantization", "awq", "--enforce-eager", "--max-num-seqs", "16", "--max-model-len", "4096"]
    return [*vllm, "--max-num-seqs", _NUM_SEQS, "--max-model-len", str(plan.capacity.max_model_len)]


def _wait_ready(server: "subprocess.Popen[bytes]", port: int, stopping: threading.Event) -> bool:
    for _ in range(_READY_SECONDS * 2):
        if server.poll() is not None or stopping.wait(0.5):
            return False
        for path in ("/ready", "/v1/models"):
            code = _get(port, path)[0]
            if code == 200:
                return True
            if code != 404:
                break
    return False


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        reply = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10, trust_env=False)
    except httpx.HTTPError:
        return 0, ""
    return reply.status_code, reply.text


def _metric(port: int, name: str) -> float | None:
    values = [line.rsplit(" ", 1)[1] for line in _get(port, "/metrics")[1].splitlines() if line.startswith(name)]
    return sum(map(float, values)) if values else None


def _status(port: int) -> Any:
    code, body = _get(port, "/onecard/status")
    return (
        {key: value for key, value in json.loads(body).items() if key in ("measured", "restarts")}
        if code == 200
        else None
    )


if __name__ == "__main__":
    main()
