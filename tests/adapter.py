"""A small LoRA adapter, written as PEFT writes one."""

import json
import random
import struct
from pathlib import Path
from typing import Any

# Inputs and outputs of the demo model's layers.
_DEMO = {"q_proj": (256, 256), "v_proj": (256, 128), "down_proj": (768, 256)}
_PARENT = {"down_proj": "mlp"}
_LAYERS = 5


def write_adapter(
    folder: Path, rank: int = 4, modules: tuple[str, ...] = ("q_proj", "v_proj"), strength: float = 0.0, **config: Any
) -> Path:
    """For the demo model. `strength` is how large the numbers of the second matrices are: 0 changes nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(modules)} | config
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    rng = random.Random(0)
    tensors: dict[str, tuple[int, int, float]] = {}
    for layer in range(_LAYERS):
        for module in modules:
            inputs, outputs = _DEMO.get(module, (256, 256))
            parent = _PARENT.get(module, "self_attn")
            name = f"base_model.model.model.language_model.layers.{layer}.{parent}.{module}"
            tensors[f"{name}.lora_A.weight"] = (rank, inputs, 0.1)
            tensors[f"{name}.lora_B.weight"] = (outputs, rank, strength)
    write_safetensors(folder / "adapter_model.safetensors", tensors, rng)
    return folder


def write_safetensors(file: Path, tensors: dict[str, tuple[int, int, float]], rng: random.Random) -> None:
    """Tensors of 32 bits by their names: rows, columns and how large their numbers are."""
    header, data = {}, b""
    for name, (rows, columns, size) in tensors.items():
        numbers = struct.pack(f"<{rows * columns}f", *(size * rng.uniform(-1, 1) for _ in range(rows * columns)))
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": offsets}
        data += numbers
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
