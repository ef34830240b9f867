"""What a checkpoint folder says of itself: its config and the headers of its safetensors files. No weight is read.

It answers "is this a vision-language model that can be served, and how large is it"; what fits is `plan.py`'s question.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import CheckpointError

# A header of a real checkpoint is some hundred kB; the safetensors format itself allows 100 MB.
_LARGEST_HEADER_BYTES = 100 * 1000 * 1000


@dataclass(frozen=True)
class Checkpoint:
    """`weight_bytes` is None where the folder holds no weights (then only `--load-format dummy` can serve it);
    `vision_weight_bytes` is the vision encoder's share of them.
    `min_pixels` and `max_pixels` are its processor's own bounds, between which every picture is resized."""

    folder: Path
    architecture: str
    config: dict[str, Any]
    weight_bytes: int | None
    vision_weight_bytes: int
    min_pixels: int
    max_pixels: int

    @property
    def text_config(self) -> dict[str, Any]:
        text = self.config.get("text_config", self.config)
        return dict(text)

    @property
    def vision_config(self) -> dict[str, Any]:
        return dict(self.config["vision_config"])


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads `config.json` and every safetensors header of `folder`.

    Raises CheckpointError when the folder is missing, its files are broken or it is not a vision-language model.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no model folder {folder}. --model takes a local folder, a Hub id such as "
            "Qwen/Qwen3-VL-2B-Instruct, or one of the names that `onecard profiles` lists."
        )
    config = _read_json(folder / "config.json", "Every Hugging Face checkpoint has one; is this the right folder?")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        architectures = [config.get("model_type", "unknown")]
    if not isinstance(config.get("vision_config"), dict):
        raise CheckpointError(
            f"{folder} is not a vision-language model: its config.json ({architectures[0]}) has no `vision_config`. "
            "onecard serves models that see pictures, such as Qwen/Qwen3-VL-2B-Instruct; for a text model use vLLM itself."
        )
    if not isinstance(config.get("text_config", {}), dict):
        raise CheckpointError(f"{folder / 'config.json'} is broken: its `text_config` is no object. Download it again.")
    size = _read_json(folder / "preprocessor_config.json", "It says how pictures are prepared.").get("size")
    if not isinstance(size, dict) or not all(
        isinstance(size.get(key), int) and size[key] > 0 for key in ("shortest_edge", "longest_edge")
    ):
        raise CheckpointError(
            f"{folder / 'preprocessor_config.json'} has no usable `size` (pixels as shortest_edge and longest_edge)."
        )
    tensors = _tensor_bytes(folder)
    return Checkpoint(
        folder=folder,
        architecture=str(architectures[0]),
        config=config,
        weight_bytes=sum(tensors.values()) if tensors else None,
        vision_weight_bytes=sum(size for name, size in tensors.items() if "visual." in name),
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
    )


def _tensor_bytes(folder: Path) -> dict[str, int]:
    """Bytes of each tensor by its name; empty when there is no safetensors file at all."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index, "Download the model again.").get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index} is broken: it has no usable `weight_map`. Download the model again.")
        files = [folder / name for name in sorted(set(weight_map.values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(
                f"{folder} is incomplete: {', '.join(missing)} is missing. Download the model again; what is there is kept."
            )
    else:
        files = sorted(folder.glob("*.safetensors"))
    return {name: size for file in files for name, size in _header(file).items()}


def _header(file: Path) -> dict[str, int]:
    """Bytes of each tensor of one safetensors file: u64 header length, JSON header, data (the format's specification)."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            text = stream.read(min(length, _LARGEST_HEADER_BYTES))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    broken = f"{file} is broken or cut off ({size:,} bytes): "
    if len(prefix) < 8:
        raise CheckpointError(broken + "it is shorter than a header. Download it again.")
    if len(text) < length:
        raise CheckpointError(broken + "its header is longer than the file. Download it again.")
    try:
        header = json.loads(text)
        offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        ends = [_end(begin, end) for begin, end in offsets.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(broken + "its header is not what safetensors prescribes. Download it again.") from error
    promised = 8 + length + max(ends, default=0)
    if promised != size:
        raise CheckpointError(broken + f"its header promises {promised:,} bytes. Download it again.")
    return {name: end - begin for name, (begin, end) in offsets.items()}


def _end(begin: Any, end: Any) -> int:
    """The end of a tensor's bytes in the file. Raises ValueError when they are no range."""
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError(f"{begin!r} to {end!r} is no range of bytes")
    return end


def _read_json(file: Path, hint: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent} has no {file.name}. {hint}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. {hint}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} does not hold a JSON object. {hint}")
    return value
