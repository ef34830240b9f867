"""LoRA adapters that are served beside the model, each under a name of its own: what their folders say of themselves. No weight
is read. What their slots take is `memory.py`'s to say; vLLM loads them.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import CheckpointError, UsageError
from serving.models.files import Files, Folder
from serving.models.tensors import read_header
from serving.planning.asked import Asked
from serving.planning.engine_args import names
from serving.planning.memory import Slots

# The ranks for which vLLM makes slots (`MaxLoRARanks` in vllm/config/lora.py).
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FIRST_MATRIX = re.compile(r"(.+)\.lora_(?:embedding_)?A(?:\.|$)")
_TOWER = "visual."
_LARGEST_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class Adapter:
    """`rank` is the largest of its matrices'; `inputs` are the widths of what goes into the layers that it changes, by their
    last words, as `q_proj`."""

    name: str
    folder: Path
    rank: int
    inputs: Mapping[str, int]

    @property
    def modules(self) -> frozenset[str]:
        return frozenset(self.inputs)


def read_adapters(lora_modules: Any) -> tuple[Adapter, ...]:
    """What `lora_modules` names: `name=folder`, or vLLM's JSON form, one or several.

    Raises UsageError for what names no adapter, CheckpointError for a folder that is none or that vLLM cannot serve."""
    given = lora_modules if isinstance(lora_modules, list | tuple) else [lora_modules]
    adapters = tuple(_read(*_name_and_folder(each)) for each in given)
    called = [adapter.name for adapter in adapters]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise UsageError(f"--lora-modules names two adapters {twice[0]!r}: each needs a name of its own.")
    return adapters


def planned_slots(adapters: Sequence[Adapter], asked: Asked) -> Slots | None:
    """A slot for each adapter, so that none waits for another's, or as many of what rank as was asked for; None where there
    are none. Raises UsageError for a rank that is asked for and too small."""
    if not adapters and not asked.args.get("enable_lora"):
        return None
    needed = _slots_for(adapters) if adapters else Slots(1, 16, None)  # vLLM's own defaults
    rank, targets = asked.number("max_lora_rank") or needed.max_lora_rank, asked.args.get("lora_target_modules")
    if adapters and rank < needed.max_lora_rank:
        raise UsageError(f"--max-lora-rank {rank}: an adapter here needs {needed.max_lora_rank}.")
    modules = frozenset(names(targets)) if targets else needed.modules
    return Slots(asked.number("max_loras") or needed.max_loras, rank, modules)


def _slots_for(adapters: Sequence[Adapter]) -> Slots:
    most = max(adapter.rank for adapter in adapters)
    modules = frozenset[str]().union(*(adapter.modules for adapter in adapters))
    return Slots(len(adapters), next(rank for rank in _RANKS if rank >= most), modules)


def _name_and_folder(given: Any) -> tuple[str, Path]:
    if isinstance(given, dict):
        name, folder = given.get("name"), given.get("path")
    else:
        name, _, folder = str(given).partition("=")
    if not (isinstance(name, str) and isinstance(folder, str) and name and folder):
        raise UsageError(
            f"--lora-modules: {given!r} is no `name=folder`, as in --lora-modules invoices=/data/invoices-lora."
        )
    return name, Path(os.path.expanduser(folder)).resolve()


def _read(name: str, path: Path) -> Adapter:
    if not path.is_dir():
        raise CheckpointError(f"The adapter {name!r} is no folder: {path}. It is the one in which PEFT saved it.")
    files = Folder(path)
    config = _config(name, files)
    if _WEIGHTS not in files.names():
        raise CheckpointError(
            f"{path} has no {_WEIGHTS}. Weights of other kinds are not loaded, since a pickle can run code: save the adapter "
            "with PEFT's save_pretrained, which writes safetensors."
        )
    tensors = read_header(files, _WEIGHTS)
    layers = {found[1]: tensor for key, tensor in tensors.items() if (found := _FIRST_MATRIX.match(key))}
    if seeing := sorted(layer for layer in layers if _TOWER in layer):
        raise CheckpointError(
            f"The adapter {name!r} changes the vision encoder ({seeing[0]} and {len(seeing) - 1} more), which vLLM serves only "
            "as an experiment. Train it with the language model's layers as `target_modules`."
        )
    if not layers:
        raise CheckpointError(f"{path}/{_WEIGHTS} holds no LoRA matrices.")
    inputs = {layer.rpartition(".")[2]: tensor.shape[-1] for layer, tensor in layers.items()}
    return Adapter(name, path, _rank(name, config), inputs)


def _config(name: str, files: Files) -> dict[str, Any]:
    if _CONFIG not in files.names():
        raise CheckpointError(f"{files.where} has no {_CONFIG}: it is no LoRA adapter as PEFT saves it.")
    if files.size(_CONFIG) > _LARGEST_CONFIG_BYTES:
        raise CheckpointError(f"{files.where}/{_CONFIG} is far too large to be what it is called.")
    try:
        config = json.loads(files.read(_CONFIG, 0, _LARGEST_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{files.where}/{_CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(
            f"{files.where}/{_CONFIG} does not describe a LoRA adapter, and vLLM serves no other kind."
        )
    if config.get("use_dora"):
        raise CheckpointError(f"The adapter {name!r} was trained with DoRA, which vLLM does not serve.")
    return config


def _rank(name: str, config: dict[str, Any]) -> int:
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    known = [rank for rank in ranks if isinstance(rank, int) and not isinstance(rank, bool) and rank > 0]
    if len(known) != len(ranks):
        raise CheckpointError(f"The adapter {name!r} has no usable rank: `r` is {config.get('r')!r} in its {_CONFIG}.")
    if max(known) > _RANKS[-1]:
        raise CheckpointError(f"The adapter {name!r} is of rank {max(known)}, and vLLM takes {_RANKS[-1]} at most.")
    return max(known)
