"""Small and large EAGLE3 heads, written as those for vLLM are published: one layer, a vocabulary of its own, no embedding."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

# What belongs to the demo model, whose hidden states it reads.
DEMO: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_hidden_layers": 1,
    "vocab_size": 2048,
    "draft_vocab_size": 512,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    # vLLM's own choice, the second layer, the middle one and the last but two, is of five layers one and the same.
    "eagle_aux_hidden_state_layer_ids": [1, 3, 5],
}
# The sizes of Qwen3-VL-2B, and a vocabulary of 32,000 as AngelSlim's heads have.
QWEN = DEMO | {
    "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151_936, "draft_vocab_size": 32_000, "max_position_embeddings": 40_960,
    "eagle_aux_hidden_state_layer_ids": None,
}  # fmt: skip


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """A head without weights. What is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def write_head(folder: Path, rng: np.random.Generator | None = None) -> Path:
    """One of random numbers for the demo model."""
    rng = rng or np.random.default_rng(0)
    drawn = {name: (0.02 * rng.standard_normal(shape)).astype(np.float16) for name, shape in shapes_of(DEMO).items()}
    return save_head(folder, drawn)


def save_head(folder: Path, weights: dict[str, Any]) -> Path:
    """One for the demo model, with these matrices. Draft word n is the model's word 4 n."""
    drafted = np.arange(DEMO["draft_vocab_size"])
    every = DEMO["vocab_size"] // DEMO["draft_vocab_size"]
    write_config(folder, DEMO)
    save_file(
        weights | {"d2t": drafted * (every - 1), "t2d": np.arange(DEMO["vocab_size"]) % every == 0},
        folder / "model.safetensors",
    )
    return folder


def write_headers(folder: Path, config: dict[str, Any], *more: str, without: tuple[str, ...] = ()) -> Path:
    """A head of that size whose weights are holes in a file: its header says of each tensor what it would be. `more` as
    `embed_tokens.weight`; `without` are left out."""
    write_config(folder, config)
    tensors = {name: ("F16", shape) for name, shape in shapes_of(config).items()}
    words, drafted, d = config["vocab_size"], config["draft_vocab_size"] or config["vocab_size"], config["hidden_size"]
    tensors |= {"d2t": ("I64", (drafted,)), "t2d": ("BOOL", (words,))}
    tensors |= dict.fromkeys(more, ("F16", (words, d)))
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        if name not in without:
            begin, end = end, end + math.prod(shape) * {"F16": 2, "I64": 8, "BOOL": 1}[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The matrices and norms of a head of one layer, by the names of its file."""
    d, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    return {
        "fc.weight": (d, 3 * d),
        "midlayer.self_attn.q_proj.weight": (heads, 2 * d),
        "midlayer.self_attn.k_proj.weight": (kv_heads, 2 * d),
        "midlayer.self_attn.v_proj.weight": (kv_heads, 2 * d),
        "midlayer.self_attn.o_proj.weight": (d, heads),
        "midlayer.mlp.gate_proj.weight": (inner, d),
        "midlayer.mlp.up_proj.weight": (inner, d),
        "midlayer.mlp.down_proj.weight": (d, inner),
        "midlayer.hidden_norm.weight": (d,),
        "midlayer.input_layernorm.weight": (d,),
        "midlayer.post_attention_layernorm.weight": (d,),
        "norm.weight": (d,),
        "lm_head.weight": (config["draft_vocab_size"] or config["vocab_size"], d),
    }
