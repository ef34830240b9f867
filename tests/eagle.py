"""Small and large EAGLE3 heads, written as those for vLLM are published: one layer, a vocabulary of its own, no embedding."""

import io
import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from serving.demo.questions.heldout import Example
from serving.hub import resolve_model

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


def write_head(folder: Path) -> Path:
    """One of random numbers for the demo model: nothing that it drafts is right."""
    rng = np.random.default_rng(0)
    drawn = {name: (0.02 * rng.standard_normal(shape)).astype(np.float16) for name, shape in shapes_of(DEMO).items()}
    return _save(folder, drawn, np.arange(0, DEMO["vocab_size"], DEMO["vocab_size"] // DEMO["draft_vocab_size"]))


def fit_head(folder: Path, examples: Iterable[Example]) -> Path:
    """One for the demo model that drafts the word after the next, as far as that is a linear function of the last hidden state
    (least squares over the examples' right answers): its layer adds nothing, and all the rest is its output head."""
    import torch

    states, words = (torch.cat(each) for each in zip(*map(_Demo().after_next, examples), strict=True))
    normed = states / states.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    known = torch.unique(words)
    drafted = torch.cat((known, _others(known, DEMO["draft_vocab_size"] - len(known)))).sort().values
    right = (words[:, None] == drafted).to(normed.dtype)
    output = torch.linalg.solve(normed.T @ normed + 0.1 * torch.eye(normed.shape[1]), normed.T @ right).T
    weights: dict[str, Any] = {
        name: np.full(shape, 1.0 if "norm" in name else 0.0, np.float16) for name, shape in shapes_of(DEMO).items()
    }
    weights["fc.weight"][:, -DEMO["hidden_size"] :] = np.eye(
        DEMO["hidden_size"]
    )  # of the three layers that it reads, the last
    return _save(folder, weights | {"lm_head.weight": (100 * output).numpy().astype(np.float16)}, drafted.numpy())


class _Demo:
    """The demo model in transformers, with what goes out of its last layer."""

    def __init__(self) -> None:
        from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

        folder = resolve_model("demo").download()
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        self._model: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
        self._model.model.language_model.layers[-1].register_forward_hook(self._keep)
        self._out: Any = None

    def after_next(self, example: Example) -> tuple[Any, Any]:
        """The hidden state before each word of the right answer but its first, and the word after that: (n, 256) and (n,)."""
        import torch

        messages: list[dict[str, Any]] = example.messages()
        for message in messages:
            parts = message["content"] if isinstance(message["content"], list) else []
            message["content"] = [{"type": "image"} if part["type"] == "image_url" else part for part in parts] or [
                {"type": "text", "text": message["content"]}
            ]
        images = [Image.open(io.BytesIO(each.data)).convert("RGB") for each in example.images]
        for image in images:
            image.thumbnail((320, 320))
        ask = self._processor.apply_chat_template(
            messages, tools=example.tools, add_generation_prompt=True, tokenize=False
        )
        answer = f"{example.expected}<|im_end|>"
        given = self._processor(text=[ask + answer], images=images or None, return_tensors="pt")
        words = given["input_ids"][0]
        first = len(words) - len(self._processor.tokenizer(answer, add_special_tokens=False).input_ids) - 1
        with torch.no_grad():
            self._model(**given)
        return self._out.reshape(len(words), -1)[first:-2], words[first + 2 :]

    def _keep(self, _layer: Any, _given: Any, out: Any) -> None:
        self._out = out[0] if isinstance(out, tuple) else out


def _others(known: Any, count: int) -> Any:
    import torch

    every = torch.arange(DEMO["vocab_size"])
    return every[~torch.isin(every, known)][:count]


def _save(folder: Path, weights: dict[str, Any], drafted: Any) -> Path:
    """`drafted` are the model's words that have a draft word, in their order."""
    write_config(folder, DEMO)
    words = {"d2t": drafted - np.arange(len(drafted)), "t2d": np.isin(np.arange(DEMO["vocab_size"]), drafted)}
    save_file(weights | words, folder / "model.safetensors")
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
