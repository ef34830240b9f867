"""What a checkpoint says of itself: its config and the headers of its safetensors files. No weight is read.

It answers "is this a vision-language model that can be served, and how large is it"; what fits is planning/'s question.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import CheckpointError
from serving.models.files import Files
from serving.models.tensors import Tensor, read_header

_INDEX = "model.safetensors.index.json"
# The index of a model of a thousand experts is some MB.
_LARGEST_JSON_BYTES = 100 * 1000 * 1000


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` is empty where the folder holds no weights (then only `--load-format dummy` can serve it).
    `min_pixels` and `max_pixels` are its processor's own bounds, between which every picture is resized."""

    architecture: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    min_pixels: int
    max_pixels: int

    def overridden(self, overrides: dict[str, Any]) -> "Checkpoint":
        """As vLLM will read it with these `--hf-overrides`: objects are merged, all else is replaced."""
        config = _merged(self.config, overrides)
        named = _architecture(config) if "architectures" in overrides else self.architecture
        return replace(self, config=config, architecture=named)


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0] if isinstance(named, list) and named else config.get("model_type", "unknown"))


def _merged(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(config[name], value)
        for name, value in overrides.items()
        if isinstance(value, dict) and isinstance(config.get(name), dict)
    }
    return config | overrides | both


def read_checkpoint(files: Files) -> Checkpoint:
    """Reads `config.json`, the image processor's and every safetensors header: of a folder, or over the network.

    Raises CheckpointError when a file is missing or broken or it is not a vision-language model.
    """
    config = read_json(files, "config.json", "Every Hugging Face checkpoint has one; is this the right folder?")
    architecture = _architecture(config)
    if not isinstance(config.get("vision_config"), dict):
        raise CheckpointError(
            f"{files.where} is not a vision-language model: its config.json ({architecture}) has no `vision_config`. "
            "onecard serves models that see pictures, such as Qwen/Qwen3-VL-2B-Instruct; for a text model use vLLM itself."
        )
    if not isinstance(config.get("text_config", {}), dict):
        raise CheckpointError(f"{files.where}/config.json is broken: its `text_config` is no object. {files.remedy}")
    smallest, largest = _pixels(files)
    return Checkpoint(
        architecture=architecture,
        config=config,
        tensors=read_tensors(files),
        min_pixels=smallest,
        max_pixels=largest,
    )


def _pixels(files: Files) -> tuple[int, int]:
    """Between which sizes the processor resizes: `size` in newer checkpoints, `min_pixels` and `max_pixels` in older."""
    processor = read_processor(files)
    size = processor.get("size")
    if not isinstance(size, dict) or not {"shortest_edge", "longest_edge"} <= size.keys():
        size = {"shortest_edge": processor.get("min_pixels"), "longest_edge": processor.get("max_pixels")}
    smallest, largest = size["shortest_edge"], size["longest_edge"]
    if not (isinstance(smallest, int) and isinstance(largest, int) and 0 < smallest <= largest and largest >= 1024):
        raise CheckpointError(
            f"{files.where}: its image processor's config has no usable `size` (pixels as shortest_edge and longest_edge)."
        )
    return smallest, largest


def read_processor(files: Files) -> dict[str, Any]:
    """How pictures are prepared. transformers 5 saves it within `processor_config.json`, and looks there first.

    Raises CheckpointError where no file says it."""
    if "processor_config.json" in files.names():
        whole = read_json(files, "processor_config.json", files.remedy)
        if isinstance(whole.get("image_processor"), dict):
            return dict(whole["image_processor"])
    return read_json(files, "preprocessor_config.json", "It says how pictures are prepared.")


def read_tensors(files: Files) -> dict[str, Tensor]:
    """All tensors by their names; none where there are no weights. Raises as `weight_files` and `read_header` do."""
    tensors: dict[str, Tensor] = {}
    for name in weight_files(files):
        tensors |= read_header(files, name)
    return tensors


def weight_files(files: Files) -> list[str]:
    """The safetensors files that make up the model; none where there are no weights.

    Raises CheckpointError when the index is broken, or names a file that is missing.
    """
    names = files.names()
    if _INDEX not in names:
        return sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    weight_map = read_json(files, _INDEX, files.remedy).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{files.where}/{_INDEX} is broken: it has no usable `weight_map`. {files.remedy}")
    shards = sorted(set(weight_map.values()))
    if missing := [name for name in shards if name not in names]:
        raise CheckpointError(
            f"{files.where} is incomplete: {', '.join(missing)} is missing. Download the model again; what is there is kept."
        )
    return shards


def read_json(files: Files, name: str, hint: str) -> dict[str, Any]:
    """An object. Raises CheckpointError, with `hint` at its end, where there is none."""
    if name not in files.names():
        raise CheckpointError(f"{files.where} has no {name}. {hint}")
    size = files.size(name)
    if size > _LARGEST_JSON_BYTES:
        raise CheckpointError(f"{files.where}/{name} is {size:,} bytes, far too large to be what it is called. {hint}")
    try:
        value = json.loads(files.read(name, 0, size))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{files.where}/{name} cannot be read: {error}. {hint}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{files.where}/{name} does not hold a JSON object. {hint}")
    return value
