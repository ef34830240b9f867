"""Checkpoints of the published shapes without weights, for `--load-format dummy`: memory and speed are then real, words
are not. The config is a shipped one (`serving/shapes`); processor and tokenizer come from a folder that has them.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from serving.errors import UsageError
from serving.planning.profile import shape_dir

Size = Literal["2b", "4b", "8b"]
Precision = Literal["bf16", "fp8", "awq"]

_AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": ["visual"],
}


def shape_config(size: Size, precision: Precision) -> dict[str, Any]:
    """The `config.json` of Qwen3-VL of that size and precision. `awq` is AWQ's own format, which vLLM 0.26 takes as well."""
    name = f"qwen3-vl-{size}" + ("-fp8" if precision == "fp8" else "")
    shape = shape_dir(name)
    if shape is None:
        raise UsageError(f"there is no shipped shape {name}")
    config: dict[str, Any] = json.loads((shape / "config.json").read_text(encoding="utf-8"))
    return config | ({"quantization_config": _AWQ, "dtype": "float16"} if precision == "awq" else {})


def write_shape(size: Size, precision: Precision, like: Path, out: Path) -> Path:
    """A folder of that shape under `out`, with processor and tokenizer of the folder `like`."""
    folder = out / f"qwen3-vl-{size}-{precision}"
    shutil.copytree(like, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    (folder / "config.json").write_text(json.dumps(shape_config(size, precision), indent=2), encoding="utf-8")
    return folder
