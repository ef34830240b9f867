"""The model's forward pass for training: the same weights and the same sums as transformers' own, batched.

transformers runs the vision tower picture by picture inside each attention layer. Here pictures are padded to one
length and masked, conversations about the same pictures share one text, and logits are computed only where an answer
token is predicted. tests/unit/test_demo_model.py holds it equal to transformers' forward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration

from serving.demo.training.architecture import PATCH_SIZE
from serving.demo.training.batches import Arrays
from serving.demo.training.patches import GridTables

F = TypeVar("F", bound=Callable[..., torch.Tensor])


def _compiled(function: F) -> F:
    """Most of a step is reading and writing activations between small operations: compiled, those of a layer become a
    few. One compilation serves all layers and every size of picture and text. The CPU, for tests, does without."""
    if not torch.cuda.is_available():
        return function
    torch._dynamo.config.recompile_limit = 64
    compiled: F = torch.compile(function, dynamic=True)
    return compiled


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Conversations on the model's device. P: patches of all pictures, one after the other; B × L: padded texts.

    Every index that a step needs is made here, once: a step then never waits for the device.
    """

    patches: torch.Tensor  # (P, 768) uint8
    shapes: torch.Tensor  # (P,) uint8: class of the shape in the patch (targets.py)
    colors: torch.Tensor  # (P,) uint8
    characters: torch.Tensor  # (P,) int64: one bit for each character whose centre lies in the patch
    tokens: torch.Tensor  # (B, L) int64
    positions: torch.Tensor  # (3, B, L) int64: of time, row and column
    branches: torch.Tensor  # (B, L) int64: a token sees branch 0 and its own (batches.py)
    kinds: list[str]  # of each answer
    tables: GridTables
    grids: torch.Tensor  # (pictures,): rows of `tables`
    pictures: torch.Tensor  # (P,): which picture a patch belongs to
    padded: torch.Tensor  # (P,): where the patches go in (pictures, longest), flattened
    mask: torch.Tensor  # (pictures, 1, 1, longest): 0, or a large negative number for padding
    image_places: torch.Tensor  # (P / 4,): image tokens in `tokens`, flattened
    answer_places: torch.Tensor  # (N,): answer tokens in `tokens`, flattened
    answers: torch.Tensor  # (N,): which answer each of them belongs to


_AS_THEY_ARE = ("patches", "shapes", "colors", "characters", "tokens", "positions", "branches")


def load(
    arrays: Arrays, kinds: list[str], image_token: int, tables: GridTables, dtype: torch.dtype = torch.float32
) -> MicroBatch:
    """Brings a collated micro-batch (batches.py) to the device of `tables`. `dtype` is that of attention."""
    device = tables.device
    grids = [(int(rows), int(columns)) for rows, columns in arrays["grids"]]
    counts = arrays["grids"].prod(1)
    longest = -(-int(counts.max()) // 16) * 16  # attention kernels want aligned masks
    present = np.arange(longest) < counts[:, None]
    turns = arrays["turns"].ravel()
    answer_places = np.flatnonzero(turns >= 0)

    def put(array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        # The array's memory is used again after this call; pinned memory is kept until the device has read it.
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.clone()

    return MicroBatch(
        **{name: put(arrays[name]) for name in _AS_THEY_ARE},
        kinds=kinds,
        tables=tables,
        grids=tables.indices(grids),
        pictures=put(np.repeat(np.arange(len(grids)), counts)),
        padded=put(np.flatnonzero(present)),
        mask=put(np.where(present, np.float32(0), np.float32(-1e9))[:, None, None]).to(dtype),
        image_places=put(np.flatnonzero(arrays["tokens"].ravel() == image_token)),
        answer_places=put(answer_places),
        answers=put(turns[answer_places]),
    )


@dataclass(frozen=True, slots=True)
class Prediction:
    """`logits` (N, vocabulary) for the N answer tokens, what they should be, and `features` (P, hidden) of the vision
    tower before the merger."""

    logits: torch.Tensor
    targets: torch.Tensor
    features: torch.Tensor


def predict(
    model: Qwen3VLForConditionalGeneration, batch: MicroBatch, pixels: torch.Tensor | None = None
) -> Prediction:
    """`pixels` (P, 768): the patches already normalized (and perhaps disturbed); by default they are plain."""
    language = model.model.language_model
    pixels = normalize(batch.patches) if pixels is None else pixels
    features, pictures, deepstack = _see(model.model.visual, pixels, batch)
    hidden = language.embed_tokens(batch.tokens)
    hidden = hidden.flatten(0, 1).index_copy(0, batch.image_places, pictures.to(hidden.dtype)).view_as(hidden)
    rotary = _text_rotary(model.config.text_config, batch.positions)
    mask = _text_mask(batch.branches, _autocast_dtype(hidden))
    for number, layer in enumerate(language.layers):
        hidden = _text_layer(layer, hidden, rotary, mask)
        if number < len(deepstack):
            seen = deepstack[number].to(hidden.dtype)
            hidden = hidden.flatten(0, 1).index_add(0, batch.image_places, seen).view_as(hidden)
    before = hidden.flatten(0, 1).index_select(0, batch.answer_places - 1)  # a token is predicted one place before
    logits = model.lm_head(language.norm(before))
    return Prediction(logits, batch.tokens.flatten()[batch.answer_places], features)


def normalize(patches: torch.Tensor) -> torch.Tensor:
    """(P, 768) uint8, channels last → (P, 768) in -1…1, channels first as in the processor's output."""
    channels_first = patches.view(-1, PATCH_SIZE * PATCH_SIZE, 3).transpose(1, 2).flatten(1)
    return channels_first.to(torch.float32) / 127.5 - 1


def _see(
    visual: nn.Module, pixels: torch.Tensor, batch: MicroBatch
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Features of every patch, tokens for the language model (P / 4, hidden), and the deepstack's, one a level."""
    pictures, longest = batch.mask.shape[0], batch.mask.shape[-1]
    projection = visual.patch_embed.proj
    weight = projection.weight.sum(2).flatten(1)  # both frames of a picture are the same
    embedded = functional.linear(pixels, weight, projection.bias)
    hidden = embedded.new_zeros(pictures * longest, embedded.shape[1]).index_copy(0, batch.padded, embedded)
    learned = batch.tables.resampling[:, :longest] @ visual.pos_embed.weight
    hidden = hidden.unflatten(0, (pictures, longest)) + learned.index_select(0, batch.grids).to(hidden.dtype)
    angles = batch.tables.angles[batch.grids, :longest]
    angles = torch.cat([angles, angles], -1)[:, None]
    rotary = angles.cos(), angles.sin()
    mask = batch.mask.expand(-1, -1, longest, -1)

    deepstack: list[torch.Tensor] = []
    for number, block in enumerate(visual.blocks):
        hidden = _vision_block(block, hidden, rotary, mask)
        if number in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[len(deepstack)]
            deepstack.append(merger(hidden.flatten(0, 1).index_select(0, batch.padded)))
    features = hidden.flatten(0, 1).index_select(0, batch.padded)
    return features, visual.merger(features), deepstack


@_compiled
def _vision_block(
    block: nn.Module, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    attention = block.attn
    heads = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(_rotate(query, rotary), _rotate(key, rotary), value, attn_mask=mask)
    hidden = hidden + attention.proj(mixed.transpose(1, 2).flatten(2))
    return hidden + block.mlp(block.norm2(hidden))


@_compiled
def _text_layer(
    layer: nn.Module, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    heads = (-1, attention.head_dim)
    query = attention.q_norm(attention.q_proj(normed).unflatten(-1, heads)).transpose(1, 2)
    key = attention.k_norm(attention.k_proj(normed).unflatten(-1, heads)).transpose(1, 2)
    value = attention.v_proj(normed).unflatten(-1, heads).transpose(1, 2)
    shared = attention.num_key_value_groups
    mixed = functional.scaled_dot_product_attention(
        _rotate(query, rotary),
        _rotate(key, rotary).repeat_interleave(shared, dim=1),
        value.repeat_interleave(shared, dim=1),
        attn_mask=mask,
    )
    hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _text_rotary(config: nn.Module, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Interleaved multimodal rotary: frequencies take turns between time, row and column; the slowest are time's."""
    half = config.head_dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=positions.device) / half
    frequencies = config.rope_parameters["rope_theta"] ** -exponents
    axis = torch.zeros(half, dtype=torch.int64, device=positions.device)
    for number in (1, 2):
        axis[number : 3 * config.rope_parameters["mrope_section"][number] : 3] = number
    angles = positions[axis].permute(1, 2, 0) * frequencies  # (B, L, half)
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos(), angles.sin()


def _text_mask(branches: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, L, L): 0 where a token (third axis) sees another, else a large negative number. Padding comes last, where
    nothing that counts looks."""
    length = branches.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    common_or_own = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    hidden = ~(earlier & common_or_own)
    return torch.zeros(hidden.shape, dtype=dtype, device=branches.device).masked_fill_(hidden, -1e9)[:, None]


def _rotate(heads: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(B, heads, length, head_dim); in float32, then back to the precision of the heads' neighbours."""
    cos, sin = rotary
    first, second = heads.chunk(2, dim=-1)
    return (heads * cos + torch.cat([-second, first], -1) * sin).to(_autocast_dtype(heads))


def _autocast_dtype(tensor: torch.Tensor) -> torch.dtype:
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
