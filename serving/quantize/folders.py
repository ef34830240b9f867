"""A checkpoint folder put together of others: tensors in, tensors out, and everything beside them carried over.

Weights are written shard by shard; no more than one shard is in memory.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.errors import DiskFullError, OnecardError
from serving.models.checkpoint import weight_files
from serving.models.files import Folder

INDEX = "model.safetensors.index.json"
# Files of a checkpoint that are not made new: tokenizer, processor, template, sampling, licence.
_NOT_CARRIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
_MADE_NEW = {"config.json", "README.md", "quality.json"}

Tensors = dict[str, Any]


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns a failed write below `out` into a refusal: DiskFullError where there is no room, else OnecardError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors tells the system's number only in words.
        told = re.search(r"os error (\d+)|code: (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1] or told[2]) if told else None
        refusal = DiskFullError if number in DiskFullError.numbers else OnecardError
        raise refusal(
            f"{out} could not be written: {error}. Make room there, and run the same command again."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def carry_over(source: Path, out: Path) -> None:
    """Copies what belongs to the model and holds no weights."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name not in _MADE_NEW and not file.name.endswith(_NOT_CARRIED):
            shutil.copyfile(file, out / file.name)


def rewrite_weights(source: Path, out: Path, change: Callable[[Tensors], Tensors], extra: Tensors) -> None:
    """Every shard of `source` through `change`, and `extra` as a shard of its own; with an index where there are several."""
    from safetensors.torch import load_file, save_file

    names = weight_files(Folder(source))
    parts = [*names, *([""] if extra else [])]
    weight_map: dict[str, str] = {}
    total = 0
    for number, name in enumerate(parts, 1):
        tensors = change(load_file(source / name)) if name else extra
        file = f"model-{number:05}-of-{len(parts):05}.safetensors" if len(parts) > 1 else "model.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, out / file, metadata={"format": "pt"})
        (out / file).chmod(0o644)  # safetensors writes for the owner alone
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(value.numel() * value.element_size() for value in tensors.values())
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
