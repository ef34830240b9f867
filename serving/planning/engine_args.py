"""Converts vLLM's arguments between the plan's form (a mapping by vLLM's names) and vLLM's command line."""

import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from serving.errors import UsageError

# The plan depends on these: a vLLM that does not know one of them must not be started.
REQUIRED = frozenset(
    {"served_model_name", "max_model_len", "max_num_seqs", "mm_processor_kwargs", "limit_mm_per_prompt"}
    | {"kv_cache_memory_bytes", "gpu_memory_utilization", "tensor_parallel_size"}
    | {"enable_lora", "lora_modules", "max_loras", "max_lora_rank", "lora_target_modules", "speculative_config"}
)
_SPECULATION = "write --speculative-config with the `method` in it"
_GRAPHS = "write --compilation-config '{\"cudagraph_capture_sizes\": [1, 2, 4]}', which is planned with"
# What onecard decides itself, what must not appear in a plan that others can read, and what would bypass the plan; each with
# where it belongs.
_NOT_FOR_VLLM = {
    "model": "it is onecard's own --model",
    "model_weights": "they are those of onecard's own --model",
    "hf_config_path": "the config is that of onecard's own --model; parts of it can be told by --hf-overrides",
    "host": "it is onecard's own --host",
    "port": "it is onecard's own --port",
    "api_key": "keys come from ONECARD_API_KEY or --api-keys-file, where no process list shows them",
    "hf_token": "the hub's token comes from HF_TOKEN, where no process list shows it",
    "api_server_count": "guard and counters live in one API process",
    "middleware": "the guard is the middleware",
    "ssl_certfile": "a proxy in front speaks TLS (docs/behind-a-proxy.md), for the time without a model too",
    "worker_extension_cls": "onecard's own measures the memory",
    "config": "a file of arguments would go past the plan; write them out",
    "device_ids": "the cards are those of CUDA_VISIBLE_DEVICES and onecard's own --cards",
    "device_memory_utilization": "write --gpu-memory-utilization, which is the same",
    "num_gpu_blocks_override": "the KV cache is planned in bytes, by --kv-cache-memory-bytes",
    "language_model_only": "write --limit-mm-per-prompt '{\"image\": 0}'",
    "spec_method": _SPECULATION,
    "spec_model": _SPECULATION,
    "spec_tokens": _SPECULATION,
    "cudagraph_capture_sizes": _GRAPHS,
    "max_cudagraph_capture_size": _GRAPHS,
}
_SHORT_FLAG = re.compile(r"-[A-Za-z]")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT])")
_UNITS = {letter: 1000**power for power, letter in enumerate("kmgt", start=1)}
_UNITS |= {letter: 1024**power for power, letter in enumerate("KMGT", start=1)}


def to_argv(args: dict[str, Any]) -> list[str]:
    """`{"max_model_len": 8192, "enforce_eager": True}` → `["--max-model-len", "8192", "--enforce-eager"]`."""
    argv: list[str] = []
    for name, value in args.items():
        flag = name.replace("_", "-")
        if value is True:
            argv.append(f"--{flag}")
        elif value is False:
            argv.append(f"--no-{flag}")
        elif isinstance(value, list):
            argv += [f"--{flag}", *(map(str, value) if value else ["[]"])]
        elif value is not None:
            argv += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return argv


def from_argv(argv: Sequence[str]) -> dict[str, Any]:
    """What follows `--` on onecard's command line, by vLLM's names, for the plan.

    Values are read as JSON where they are JSON ("8192" is a number) and kept as text otherwise. Raises UsageError for a word
    that belongs to no flag, and for vLLM's short flags, whose long names the plan does not know.
    """
    given: dict[str, list[Any] | bool] = {}
    values: list[Any] | None = None
    for word in argv:
        if word.startswith("--") and word != "--":
            flag, has_value, value = word[2:].partition("=")
            name, _, key = flag.replace("-", "_").partition(".")
            if key:
                whole = flag.partition(".")[0]
                raise UsageError(f"--{flag}: give --{whole} as one JSON object, which the plan can read.")
            check_own(name)
            if name.startswith("no_") and not has_value:
                values, given[name[3:]] = None, False
            else:
                values = given[name] = [_value(value)] if has_value else []
        elif values is None or word == "--":
            raise UsageError(f"{word!r} after `--` belongs to no flag. What follows `--` are vLLM's own arguments.")
        elif _SHORT_FLAG.match(word):
            raise UsageError(f"{word!r}: write vLLM's arguments by their long names, as in --max-model-len 8192.")
        else:
            values.append(_value(word))
    return {name: _unwrapped(values) for name, values in given.items()}


def check_own(name: str) -> None:
    """Raises UsageError for an argument of vLLM's that only onecard may set."""
    if why := _NOT_FOR_VLLM.get(name):
        raise UsageError(f"--{name.replace('_', '-')} is not for vLLM: {why}.")


def split_unknown(args: dict[str, Any], known_flags: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that the installed vLLM knows, and the names of those that it does not."""
    known = {flag.lstrip("-").replace("-", "_") for flag in known_flags}
    return {name: value for name, value in args.items() if name in known}, [name for name in args if name not in known]


def count(name: str, value: Any) -> int:
    """A whole number above 0, also in vLLM's notation: 16k is 16,000 and 16K is 16,384. Raises UsageError."""
    if isinstance(value, str) and (found := _COUNT.fullmatch(value)):
        value = int(Decimal(found[1]) * _UNITS[found[2]])
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} is {value!r}, and the plan needs a whole number above 0, as in `{flag} 8192`.")
    return value


def names(value: Any) -> list[str]:
    """One name or several, as a list of text."""
    return [str(each) for each in (value if isinstance(value, list) else [value])]


def _unwrapped(values: list[Any] | bool) -> Any:
    """True for a flag without a value, the value if there is one, a list if there are several."""
    if isinstance(values, bool) or len(values) > 1:
        return values
    return values[0] if values else True


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word
