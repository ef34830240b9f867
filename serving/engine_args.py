"""Between vLLM's arguments as the plan has them (a mapping by vLLM's names) and as vLLM's own parser reads them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from serving.errors import UsageError

# The plan is wrong without these: a vLLM that does not know one of them must not be started.
REQUIRED = frozenset(
    {"served_model_name", "max_model_len", "max_num_seqs", "mm_processor_kwargs", "limit_mm_per_prompt"}
    | {"kv_cache_memory_bytes", "gpu_memory_utilization"}
)


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
    """What follows `--` on onecard's command line, by vLLM's names, for the plan to see.

    Values are read as JSON where they are JSON ("8192" is a number) and kept as text otherwise. Raises UsageError
    for a word that belongs to no flag.
    """
    args: dict[str, Any] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if not has_value and name.startswith("no_"):
                name, args[name[3:]] = "", False
            else:
                args[name] = _value(value) if has_value else True
        elif not name:
            raise UsageError(f"{word!r} after `--` belongs to no flag. What follows `--` are vLLM's own arguments.")
        else:
            before = args[name]
            args[name] = _value(word) if before is True else [*(before if isinstance(before, list) else [before]), word]
    return args


def split_unknown(args: dict[str, Any], known_flags: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that the installed vLLM knows, and the names of those that it does not."""
    known = {flag.lstrip("-").replace("-", "_") for flag in known_flags}
    return {name: value for name, value in args.items() if name in known}, [name for name in args if name not in known]


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word
