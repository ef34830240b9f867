"""EAGLE3 heads, which draft for a model: which one is meant, what its folder says of itself, and whether it is that model's. No
weight is read. What it takes of the memory is `speculation.py`'s to say; vLLM loads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import CheckpointError, UsageError
from serving.models.architecture import (
    MROPE_POSITIONS_FACTOR,
    QWEN2_5_VL,
    QWEN3_VL,
    Shape,
    attention_sizes,
    need,
    text_of,
)
from serving.models.checkpoint import read_json, read_tensors
from serving.models.files import Files
from serving.models.tensors import Tensor
from serving.planning.asked_speculation import AskedSpeculation
from serving.planning.profile import Model
from serving.planning.speculation import NO_DRAFTS, Head, Speculation

# As vLLM reads `architectures` for this method (`EAGLEConfig`): these names, or the same after "Eagle3".
_LLAMA = ("LlamaForCausalLM", "Eagle3LlamaForCausalLM", "LlamaForCausalLMEagle3")
_LLAMA_OF_QWEN = ("Eagle3Qwen2_5vlForCausalLM", "Eagle3Qwen3vlForCausalLM")
_QWEN3 = ("Qwen3ForCausalLM", "Eagle3Qwen3ForCausalLM")
_KNOWN = (*_LLAMA, *_LLAMA_OF_QWEN, *_QWEN3)
# Whose hidden states vLLM hands out (`SupportsEagle3`), of the architectures that are planned. Qwen3.5's recurrent state would
# be needed once for each draft, which nothing is planned for.
_MODELS = (QWEN2_5_VL, QWEN3_VL)


@dataclass(frozen=True)
class DraftHead:
    """`place` is its folder, or the Hub id of one that is not here; `layers` are the model's whose hidden states it wants, None
    where it leaves them to vLLM. Without weights only `--load-format dummy` can serve it."""

    name: str
    place: str
    sizes: Head
    vocab_size: int
    layers: tuple[int, ...] | None
    has_weights: bool


def read_head(name: str, place: str, files: Files) -> DraftHead:
    """Reads `config.json` and the headers of the weights. Raises CheckpointError for what is no EAGLE3 head, or is one that
    vLLM would load wrongly."""
    config = read_json(files, "config.json", "A head for vLLM has one; is this the right folder?")
    tensors = read_tensors(files)
    listed = config.get("architectures")
    architecture = listed[0] if isinstance(listed, list) and listed else None
    if architecture not in _KNOWN or (tensors and "fc.weight" not in tensors):
        raise CheckpointError(
            f"{files.where} is no EAGLE3 head that can be planned (its config.json says {architecture!r}, and its weights "
            f"{'have' if 'fc.weight' in tensors else 'lack'} `fc.weight`). `model` in --speculative-config names one that was "
            "trained for this very model, as AngelSlim/Qwen3-VL-2B-Instruct_eagle3 for Qwen3-VL-2B-Instruct."
        )
    if config.get("quantization_config"):
        raise CheckpointError(f"{files.where} is a quantized head, which is not planned. Take the one of 16 bits.")
    layers, sizes = _layers(config), _sizes(files, config, tensors, str(architecture))
    vocab_size = need(config, "vocab_size")
    drafted, says_which = sizes.draft_vocab_size, not tensors or {"d2t", "lm_head.weight"} <= tensors.keys()
    if drafted > vocab_size or (drafted < vocab_size and not says_which):
        raise CheckpointError(
            f"{files.where} is broken: it drafts {drafted:,} of {vocab_size:,} words, and `d2t` and `lm_head.weight` have to "
            f"say which. {files.remedy}"
        )
    return DraftHead(name, place, sizes, vocab_size, layers, has_weights=bool(tensors))


def check_head(
    head: DraftHead | None, asked: AskedSpeculation | None, shape: Shape | None, model: Model, cards: int
) -> None:
    """Raises UsageError for a head that does not belong to the model, and for a model that drafts cannot be checked with."""
    if asked is None:
        return
    if model.sampling.min_p:
        raise UsageError(
            f"--speculative-config: {model.title} is sampled with min_p {model.sampling.min_p:g}, which vLLM refuses of every "
            "request where drafts are checked. Leave one of them out."
        )
    if not asked.by_head:
        return
    if head is None:
        raise UsageError(
            f"--speculative-config: no EAGLE3 head of {model.title} is known. Name one that was trained for it: "
            '\'{"method": "eagle3", "model": "FOLDER or Hub id", "num_speculative_tokens": 3}\'.'
        )
    if shape is None or shape.architecture not in _MODELS:
        raise UsageError(
            f"--speculative-config: EAGLE3 heads are planned for {' and '.join(_MODELS)}, whose hidden states vLLM hands out, "
            f"and not for {shape.architecture if shape else 'this architecture'}. Leave it out."
        )
    text, own = shape.text, head.sizes.text
    if (own.hidden_size, head.vocab_size) != (text.hidden_size, text.vocab_size):
        raise UsageError(
            f"The EAGLE3 head {head.name} was trained for a model that is {own.hidden_size:,} wide and knows "
            f"{head.vocab_size:,} words, and this one is {text.hidden_size:,} wide and knows {text.vocab_size:,}: take "
            "the head of this very model."
        )
    # What vLLM takes where a head says nothing (`get_eagle3_default_aux_hidden_state_layers`).
    wanted = head.layers or (2, text.layers // 2, text.layers - 3)
    if len({*wanted}) != head.sizes.hidden_states or not all(0 <= layer <= text.layers for layer in wanted):
        raise UsageError(
            f"The EAGLE3 head {head.name} reads the hidden states of {head.sizes.hidden_states} layers, and this model of "
            f"{text.layers} would hand out those of {', '.join(map(str, wanted))}. Take the head of this very model."
        )
    if not own.splits(cards):
        raise UsageError(
            f"--tensor-parallel-size {cards}: the {own.heads} heads of {head.name} cannot be split over so many cards."
        )


def speculation_of(asked: AskedSpeculation | None, head: DraftHead | None, cards: int, context: int) -> Speculation:
    """What is planned for it on each of so many cards that share a server, with conversations of `context` tokens, whose
    positions the head has to know (vLLM's `_maybe_override_draft_max_position_embeddings`)."""
    if asked is None:
        return NO_DRAFTS
    sizes = head.sizes.share(cards) if head and asked.by_head else None
    if sizes and sizes.text.max_positions < context:
        sizes = replace(sizes, text=replace(sizes.text, max_positions=context))
    return Speculation(asked.tokens, sizes, asked.keeps_logits)


def _layers(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """As vLLM's `get_eagle3_aux_layers_from_config`."""
    inner = config.get("eagle_config")
    given = config.get("eagle_aux_hidden_state_layer_ids") or (
        inner.get("layer_ids") if isinstance(inner, dict) else None
    )
    if not given:
        return None
    if not isinstance(given, list) or not all(isinstance(layer, int) for layer in given):
        raise CheckpointError(f"The head's config.json is broken: the layers that it reads are {given!r}.")
    return tuple(given)


def _sizes(files: Files, config: dict[str, Any], tensors: Mapping[str, Tensor], architecture: str) -> Head:
    """A layer of Llama or Qwen3, whose first takes the token's embedding beside the hidden state (llama_eagle3.py and
    qwen3_eagle3.py in vllm/model_executor/models/). Both leave the length of a table for three kinds of positions to `get_rope`
    (layers/rotary_embedding/__init__.py), Qwen3-VL's head too."""
    d, heads, kv_heads, size = attention_sizes(config)
    attention = 2 * d * heads * size + 2 * d * kv_heads * size
    norms = 3 * d + (2 * size if architecture in _QWEN3 else 0)
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    factor = MROPE_POSITIONS_FACTOR if isinstance(rope, dict) and "mrope_section" in rope else 1
    text = text_of(config, tied=False, linear=attention, other=norms, positions_factor=factor)
    drafted = need({"draft_vocab_size": text.vocab_size} | config, "draft_vocab_size")
    hidden_states = need({"num_aux_hidden_states": 3} | config, "num_aux_hidden_states")
    if tensors:
        hidden_states, rest = divmod(tensors["fc.weight"].shape[-1], d)
        if rest:
            raise CheckpointError(
                f"{files.where} is broken: its `fc.weight` is no multiple of its `hidden_size`, {d:,}. {files.remedy}"
            )
        weights = sum(_held(name, tensor) for name, tensor in tensors.items())
    else:
        beside = d * (heads + 2 * kv_heads) * size + hidden_states * d * d + drafted * d
        weights = 2 * (text.body.total + beside) + (8 * drafted if drafted < text.vocab_size else 0)
    return Head(text, drafted, hidden_states, weights)


def _held(name: str, tensor: Tensor) -> int:
    """Bytes of a tensor as vLLM holds it: matrices at 16 bits, the words' numbers at 64, and not which words have one (`t2d`).
    An embedding is counted, since no header tells whether it is the model's own, which vLLM would share."""
    if "t2d" in name:
        return 0
    return tensor.nbytes // {"F32": 2, "F64": 4}.get(tensor.dtype, 1)
