"""How many bytes things take: pure functions of a checkpoint's config. What does not depend on the config is the profile's."""

from typing import Any

from serving.checkpoint import Checkpoint
from serving.errors import CheckpointError

MIB = 2**20
_BYTES_16_BIT = 2


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights: from the safetensors headers, or, without weights, 16 bits for each parameter of the shape."""
    if checkpoint.weight_bytes is not None:
        return checkpoint.weight_bytes
    return _BYTES_16_BIT * (text_parameters(checkpoint.text_config) + vision_parameters(checkpoint.vision_config))


def text_weight_bytes(checkpoint: Checkpoint) -> int:
    """What is read for each token that is decoded: the language model, and not the vision encoder."""
    if checkpoint.weight_bytes is not None:
        return checkpoint.weight_bytes - checkpoint.vision_weight_bytes
    return _BYTES_16_BIT * text_parameters(checkpoint.text_config)


def kv_bytes_per_token(checkpoint: Checkpoint) -> int:
    """A key and a value of 16 bits for each layer and KV head: 2 × layers × KV heads × head size × 2 bytes."""
    text = checkpoint.text_config
    layers, heads, size = (_need(text, key) for key in ("num_hidden_layers", "num_key_value_heads", "head_dim"))
    return 2 * layers * heads * size * _BYTES_16_BIT


def pixels_per_token(checkpoint: Checkpoint) -> int:
    """Pixels that become one token: (patch_size × spatial_merge_size)², 32 × 32 for Qwen3-VL."""
    vision = checkpoint.vision_config
    side = _need(vision, "patch_size") * _need(vision, "spatial_merge_size")
    return side * side


def text_parameters(text: dict[str, Any]) -> int:
    """Parameters of the language model; the layer is that of transformers' `modeling_qwen3_vl.py`."""
    d, layers, inner = (_need(text, key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads, kv_heads, size = (_need(text, key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    vocabulary = _need(text, "vocab_size") * d
    attention = 2 * d * heads * size + 2 * d * kv_heads * size + 2 * size
    layer = attention + 3 * d * inner + 2 * d
    return layers * layer + d + vocabulary * (1 if text.get("tie_word_embeddings") else 2)


def vision_parameters(vision: dict[str, Any]) -> int:
    """Parameters of the vision encoder with its mergers; the layer is that of transformers' `modeling_qwen3_vl.py`."""
    h, inner, out = (_need(vision, key) for key in ("hidden_size", "intermediate_size", "out_hidden_size"))
    patch = 3 * _need(vision, "temporal_patch_size") * _need(vision, "patch_size") ** 2
    merged = h * _need(vision, "spatial_merge_size") ** 2
    block = 4 * h * h + 4 * h + 2 * h * inner + inner + h + 4 * h
    merger = merged * merged + merged + merged * out + out
    deepstack = len(vision.get("deepstack_visual_indexes", ()))
    return (
        (patch + 1) * h
        + _need(vision, "num_position_embeddings") * h
        + _need(vision, "depth") * block
        + (merger + 2 * h)
        + deepstack * (merger + 2 * merged)
    )


def _need(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json has no usable `{key}` ({value!r}): the memory plan needs it.")
    return value
