"""The load: `vllm bench serve`, kept in one process. `python -m benchmarks.generator` is that process.

Every run is one of its command lines, kept in the result, so that it can be repeated by hand. It is asked for the record
of each request and for nothing else: the figures are made here (load.py), since without a tokenizer, which the server of
another project need not have, it makes none itself.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from benchmarks import worker
from benchmarks.load import Answer, Load
from benchmarks.workload import Workload

# What Qwen3-VL's card recommends, sent with each request: servers differ in their defaults, and sampling costs time.
SAMPLING = ("--temperature", "0.7", "--top-p", "0.8", "--top-k", "20")


class Generator:
    """Sends load to OpenAI-compatible servers, from `cores` of its own where they are given."""

    def __init__(self, log: Path, cores: Sequence[int] = ()) -> None:
        quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        # A proxy must not stand between it and this machine's own servers.
        local = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
        self._worker = worker.Worker("benchmarks.generator", log=log, cores=cores, environment=quiet | local)

    def send(
        self,
        url: str,
        model: str,
        workload: Workload,
        *,
        first: int,
        count: int,
        tokens: int,
        clients: int | None = None,
        per_s: float = math.inf,
        question: int = 0,
        seed: int = 0,
    ) -> Load:
        """`count` requests, each answered with `tokens` tokens: as fast as `clients` at a time allow, or arriving by
        chance (Poisson), `per_s` of them a second. Raises WorkerError where the generator itself fails."""
        with TemporaryDirectory(prefix="onecard-bench-") as folder:
            file = Path(folder) / "requests.jsonl"
            workload.write(file, first, count, question)
            argv = arguments(url, model, file, count=count, tokens=tokens, clients=clients, per_s=per_s, seed=seed)
            return load_of(self._worker.ask(argv), workload.pictures)

    def close(self) -> None:
        self._worker.stop()


def arguments(
    url: str,
    model: str,
    file: Path,
    *,
    count: int,
    tokens: int,
    clients: int | None = None,
    per_s: float = math.inf,
    seed: int = 0,
) -> list[str]:
    """What follows `vllm bench serve`. `url` ends in /v1, as the OpenAI SDK has it."""
    parts = urlsplit(url)
    return [
        *("--backend", "openai-chat", "--base-url", f"{parts.scheme}://{parts.netloc}"),
        *("--endpoint", parts.path.rstrip("/") + "/chat/completions", "--model", model, "--skip-tokenizer-init"),
        *("--dataset-name", "custom_image", "--dataset-path", str(file), "--disable-shuffle"),
        *("--num-prompts", str(count), "--custom-output-len", str(tokens), "--ignore-eos", *SAMPLING),
        *("--seed", str(seed), "--save-detailed"),
        *(("--max-concurrency", str(clients)) if clients else ()),
        *(("--request-rate", str(per_s)) if per_s < math.inf else ()),
    ]


_RECORD = ("duration", "ttfts", "itls", "output_lens", "input_lens", "errors")


def load_of(result: dict[str, Any], pictures_each: int) -> Load:
    """From `vllm bench serve`'s own record. A request without a first token is one that failed."""
    rows = zip(
        result["ttfts"], result["itls"], result["output_lens"], result["input_lens"], result["errors"], strict=True
    )
    answers, errors = [], []
    for first_token_s, gaps_s, tokens, prompt_tokens, error in rows:
        if error or not tokens:
            errors.append(str(error).strip().splitlines()[-1][:200] if error else "no token came")
        else:
            answers.append(Answer(first_token_s, first_token_s + sum(gaps_s), tokens, prompt_tokens, tuple(gaps_s)))
    busy = result.get("busy", 0.0)
    return Load(result["duration"], pictures_each, answers, len(errors), sorted(set(errors))[:3], busy)


def main() -> Callable[[list[str]], dict[str, Any]]:
    """Imports vLLM's generator, once, and returns what runs one of its command lines."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench_serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def run(argv: list[str]) -> dict[str, Any]:
        parser = FlexibleArgumentParser()
        add_cli_args(parser)
        began, worked = time.perf_counter(), time.process_time()
        result = bench_serve(parser.parse_args(argv))
        # Reading the requests is counted too, so this is rather too much than too little.
        busy = (time.process_time() - worked) / (time.perf_counter() - began)
        return {name: result[name] for name in _RECORD} | {"busy": busy}

    return run


if __name__ == "__main__":
    worker.serve(main)
