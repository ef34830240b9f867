"""The shapes of the vision-language models that can be planned, read from `config.json`: Qwen2-VL, Qwen2.5-VL, Qwen3-VL
and the dense Qwen3.5. Sizes and parameter counts only; bytes are the business of `weights.py` and planning/memory.py.

The layers are those of transformers' `modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py`, `modeling_qwen3_vl.py` and
`modeling_qwen3_5.py`; the tests count the parameters of those very classes.
"""

from dataclasses import dataclass, replace
from typing import Any

from serving.errors import CheckpointError

QWEN2_VL = "Qwen2VLForConditionalGeneration"
QWEN2_5_VL = "Qwen2_5_VLForConditionalGeneration"
QWEN3_VL = "Qwen3VLForConditionalGeneration"
QWEN3_5 = "Qwen3_5ForConditionalGeneration"
KNOWN = (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, QWEN3_5)
# vLLM makes a longer table for a video's positions, but where the model's class knows that they never run ahead of its tokens,
# as Qwen3-VL's does (`mrope_positions_factor` in vllm/model_executor/models/qwen3_vl.py).
MROPE_POSITIONS_FACTOR = 4
# No model has more of anything.
_LARGEST_NUMBER = 10**9


@dataclass(frozen=True)
class Parameters:
    """`linear`: matrices, which quantization can shrink. `other`: norms, biases, convolutions, tables."""

    linear: int
    other: int

    @property
    def total(self) -> int:
        return self.linear + self.other


@dataclass(frozen=True)
class Text:
    """The language model. `kv_layers` are those that keep keys and values; `state_elements` are (16-bit, 32-bit) numbers
    of recurrent state that one sequence keeps in the other layers. vLLM's rotary table has `positions_factor` times the
    model's positions."""

    layers: int
    kv_layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    max_positions: int
    body: Parameters
    state_elements: tuple[int, int] = (0, 0)
    positions_factor: int = 1

    @property
    def embedding(self) -> int:
        """Parameters of the token embedding, and of an output head of its own where it is not tied."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        return self.body.total + self.embedding * (1 if self.tied else 2)

    @property
    def values_per_token(self) -> int:
        """Numbers that a layer holds at once for a token, in its feed-forward network: the gate and up projections, their
        product, and three hidden states."""
        return 3 * (self.intermediate_size + self.hidden_size)

    def share(self, cards: int) -> "Text":
        """One card's part of the heads and of the feed-forward networks. KV heads are repeated where there are fewer than cards
        (vLLM's `QKVParallelLinear`)."""
        return replace(
            self,
            intermediate_size=-(-self.intermediate_size // cards),
            heads=self.heads // cards,
            kv_heads=max(1, self.kv_heads // cards),
            state_elements=(-(-self.state_elements[0] // cards), -(-self.state_elements[1] // cards)),
        )

    def splits(self, cards: int) -> bool:
        """Whether vLLM can split it so: heads and feed-forward networks must divide, and KV heads divide or repeat evenly."""
        kv_heads = self.kv_heads % cards == 0 or cards % self.kv_heads == 0
        return kv_heads and self.heads % cards == 0 and self.intermediate_size % cards == 0


@dataclass(frozen=True)
class Vision:
    """The vision encoder. A `patch` is patch_size² pixels; merge_size² patches become one token of `out_hidden_size`,
    once at the end and once more for each of the `deepstack` layers. `positions` are learned ones, 0 where it has none."""

    depth: int
    heads: int
    hidden_size: int
    intermediate_size: int
    gated: bool
    out_hidden_size: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    deepstack: int
    body: Parameters
    positions: int = 0

    @property
    def pixels_per_token(self) -> int:
        return (self.patch_size * self.merge_size) ** 2

    @property
    def mergers(self) -> int:
        """Parameters of the matrices that make tokens of patches: two for each merger."""
        merged = self.hidden_size * self.merge_size**2
        return (1 + self.deepstack) * merged * (merged + self.out_hidden_size)

    @property
    def patches_per_token(self) -> int:
        return self.merge_size**2

    @property
    def values_per_patch(self) -> int:
        """Numbers that the processor makes of one patch: three channels, `temporal_patch_size` times."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def values_per_token(self) -> int:
        """Numbers that the encoder hands to the language model for one token of a picture."""
        return self.out_hidden_size * (1 + self.deepstack)


@dataclass(frozen=True)
class Shape:
    architecture: str
    text: Text
    vision: Vision

    @property
    def parameters(self) -> int:
        return self.text.parameters + self.vision.body.total

    def share(self, cards: int) -> "Shape":
        """What one of so many cards computes in vLLM's tensor parallelism: its part of the heads and of the feed-forward
        networks, of language model and encoder; hidden states, norms and logits are whole on each."""
        if cards == 1:
            return self
        vision = replace(self.vision, intermediate_size=self.vision.intermediate_size // cards)
        return replace(self, text=self.text.share(cards), vision=vision)

    def splits(self, cards: int) -> bool:
        """Whether vLLM can split it so; the encoder's heads and feed-forward networks must divide too."""
        seeing = self.vision.heads % cards == 0 and self.vision.intermediate_size % cards == 0
        return seeing and self.text.splits(cards)


def read_shape(architecture: str, config: dict[str, Any]) -> Shape | None:
    """The shape that a `config.json` describes; None for an architecture that is not known here.

    Raises CheckpointError naming the key where the config lacks one that the plan needs.
    """
    top = {key: value for key, value in config.items() if not isinstance(value, dict)}
    text, vision = top | _section(config, "text_config"), _section(config, "vision_config")
    # The vision-language class decides at the top level, as vLLM reads it.
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    match architecture:
        case "Qwen2VLForConditionalGeneration":
            return Shape(architecture, _qwen2_text(text, tied), _qwen2_vision(vision))
        case "Qwen2_5_VLForConditionalGeneration":
            return Shape(architecture, _qwen2_text(text, tied), _qwen2_5_vision(vision))
        case "Qwen3VLForConditionalGeneration":
            return Shape(architecture, _qwen3_text(text, tied), _qwen3_vision(vision))
        case "Qwen3_5ForConditionalGeneration":
            return Shape(architecture, _qwen3_5_text(text, tied), _qwen3_vision(vision))
    return None


def _qwen2_text(text: dict[str, Any], tied: bool) -> Text:
    """Qwen2: biases on query, key and value, no norms inside the attention."""
    d, heads, kv_heads, size = attention_sizes(text)
    attention = 2 * d * heads * size + 2 * d * kv_heads * size
    biases = (heads + 2 * kv_heads) * size
    return text_of(text, tied, linear=attention, other=biases + 2 * d, positions_factor=MROPE_POSITIONS_FACTOR)


def _qwen3_text(text: dict[str, Any], tied: bool) -> Text:
    """Qwen3: no biases, a norm over each query and key head."""
    d, heads, kv_heads, size = attention_sizes(text)
    attention = 2 * d * heads * size + 2 * d * kv_heads * size
    return text_of(text, tied, linear=attention, other=2 * size + 2 * d)


def _qwen3_5_text(text: dict[str, Any], tied: bool) -> Text:
    """Qwen3.5: one layer in a few has full attention, with an output gate beside the query; the others are gated delta
    networks, which keep a state of fixed size instead of keys and values."""
    d, heads, kv_heads, size = attention_sizes(text)
    layers = need(text, "num_hidden_layers")
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        full = kinds.count("full_attention")
    else:
        full = layers // need({"full_attention_interval": 4} | text, "full_attention_interval")
    key_heads, value_heads = need(text, "linear_num_key_heads"), need(text, "linear_num_value_heads")
    key_dim, value_dim = need(text, "linear_key_head_dim"), need(text, "linear_value_head_dim")
    kernel = need(text, "linear_conv_kernel_dim")
    mixed = 2 * key_heads * key_dim + value_heads * value_dim
    attention = 3 * d * heads * size + 2 * d * kv_heads * size
    delta = d * (mixed + 2 * value_heads * value_dim + 2 * value_heads)
    inner = 3 * d * need(text, "intermediate_size")
    linear = full * attention + (layers - full) * delta + layers * inner
    small = full * 2 * size + (layers - full) * (mixed * kernel + 2 * value_heads + value_dim) + layers * 2 * d + d
    state = ((layers - full) * mixed * (kernel - 1), (layers - full) * value_heads * value_dim * key_dim)
    return text_of(text, tied, body=Parameters(linear, small), kv_layers=full, state=state)


def text_of(
    text: dict[str, Any],
    tied: bool,
    *,
    linear: int = 0,
    other: int = 0,
    body: Parameters | None = None,
    kv_layers: int | None = None,
    state: tuple[int, int] = (0, 0),
    positions_factor: int = 1,
) -> Text:
    """The language model that a config describes; `linear` and `other` are the parameters of one layer besides its gated
    feed-forward network. Raises CheckpointError."""
    d, heads, kv_heads, size = attention_sizes(text)
    layers, inner = need(text, "num_hidden_layers"), need(text, "intermediate_size")
    return Text(
        layers=layers,
        kv_layers=layers if kv_layers is None else kv_layers,
        hidden_size=d,
        intermediate_size=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size,
        vocab_size=need(text, "vocab_size"),
        tied=tied,
        max_positions=need(text, "max_position_embeddings"),
        body=body or Parameters(layers * (linear + 3 * d * inner), layers * other + d),
        state_elements=state,
        positions_factor=positions_factor,
    )


def _qwen2_vision(vision: dict[str, Any]) -> Vision:
    """Qwen2-VL calls the width `embed_dim`; its `hidden_size` is the language model's."""
    h, out = need(vision, "embed_dim"), need(vision, "hidden_size")
    ratio = vision.get("mlp_ratio", 4)
    if not isinstance(ratio, int | float) or not 0 < ratio < h:
        raise CheckpointError(f"config.json has no usable `mlp_ratio` ({ratio!r}): the memory plan needs it.")
    inner = int(h * ratio)
    block = Parameters(4 * h * h + 2 * h * inner, 4 * h + inner + h + 4 * h)
    return _vision(vision, h, inner, out, block, gated=False, merger_norm=2 * h)


def _qwen2_5_vision(vision: dict[str, Any]) -> Vision:
    """Qwen2.5-VL: a gated feed-forward network with biases, and norms without."""
    h, inner, out = (need(vision, key) for key in ("hidden_size", "intermediate_size", "out_hidden_size"))
    block = Parameters(4 * h * h + 3 * h * inner, 4 * h + 2 * inner + h + 2 * h)
    return _vision(vision, h, inner, out, block, gated=True, merger_norm=h)


def _qwen3_vision(vision: dict[str, Any]) -> Vision:
    """Qwen3-VL and Qwen3.5: learned positions, and deepstack mergers where the config lists layers for them."""
    h, inner, out = (need(vision, key) for key in ("hidden_size", "intermediate_size", "out_hidden_size"))
    block = Parameters(4 * h * h + 2 * h * inner, 4 * h + inner + h + 4 * h)
    positions = need(vision, "num_position_embeddings")
    return _vision(vision, h, inner, out, block, gated=False, merger_norm=2 * h, positions=positions)


def _vision(
    vision: dict[str, Any],
    h: int,
    inner: int,
    out: int,
    block: Parameters,
    *,
    gated: bool,
    merger_norm: int,
    positions: int = 0,
) -> Vision:
    depth, patch, merge = (need(vision, key) for key in ("depth", "patch_size", "spatial_merge_size"))
    frames = need(vision, "temporal_patch_size")
    merged = h * merge**2
    indexes = vision.get("deepstack_visual_indexes")
    deepstack = len(indexes) if isinstance(indexes, list) else 0
    mergers = 1 + deepstack
    linear = depth * block.linear + mergers * (merged * merged + merged * out)
    other = depth * block.other + mergers * (merged + out) + merger_norm + deepstack * 2 * merged
    other += (1 + positions) * h if positions else 0  # the patch convolution has a bias then
    return Vision(
        depth=depth,
        heads=need(vision, "num_heads"),
        hidden_size=h,
        intermediate_size=inner,
        gated=gated,
        out_hidden_size=out,
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=frames,
        deepstack=deepstack,
        body=Parameters(linear, other + 3 * frames * patch**2 * h),
        positions=positions,
    )


def attention_sizes(text: dict[str, Any]) -> tuple[int, int, int, int]:
    """Hidden size, heads, KV heads, and the size of a head, which may be left to be divided, or be null."""
    d, heads = need(text, "hidden_size"), need(text, "num_attention_heads")
    given = {"head_dim": d // heads if text.get("head_dim") is None else text["head_dim"]}
    return d, heads, need(text, "num_key_value_heads"), need(given, "head_dim")


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise CheckpointError(f"config.json is broken: its `{name}` is no object ({section!r}).")
    return section


def need(config: dict[str, Any], key: str) -> int:
    """A whole number above 0. Raises CheckpointError naming the key where the config has no such one."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_NUMBER:
        raise CheckpointError(f"config.json has no usable `{key}` ({value!r}): the memory plan needs it.")
    return value
