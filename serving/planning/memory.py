"""How many bytes each part of the GPU's memory takes, as pure functions of a model's shape and of what the engine may be
asked to carry at once. Which load a card can carry is `planner.py`'s question.

What follows from vLLM's code has a formula with its source; what only a measurement can tell is a field of `Constants`.
Vision encoder and language model run one after the other in the same memory: the parts are counted so that they sum to
what is held at the worst moment (`peak`).
"""

from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from serving.models.architecture import Shape, Text, Vision
from serving.planning import speculation
from serving.planning.speculation import NO_DRAFTS, Speculation

MIB = 2**20
_BYTES_16_BIT, _BYTES_32_BIT = 2, 4
_ROTARY_OF_A_PATCH = 2 * _BYTES_16_BIT * 32  # cosine and sine of half a head's dimensions
_MOST_MULTIPROCESSORS = 256
_FLASHINFER_WORKSPACE = 394 * MIB


@dataclass(frozen=True)
class Slots:
    """What vLLM keeps ready for LoRA adapters, by its own names. `modules` are the last words of the layers that they may
    change, as `q_proj`; None stands for every layer that there is."""

    max_loras: int
    max_lora_rank: int
    modules: frozenset[str] | None


@dataclass(frozen=True)
class Load:
    """The most that the engine may be given at once, by vLLM's names. `image_tokens` are those of the largest picture,
    `encoder_budgets` the numbers of tokens for which the vision encoder has a CUDA graph; by `flashinfer`
    the attention is computed, or not."""

    max_num_seqs: int
    max_num_batched_tokens: int
    image_tokens: int
    cudagraph_sizes: int
    encoder_budgets: tuple[int, ...] = ()
    lora: Slots | None = None
    speculation: Speculation = NO_DRAFTS
    flashinfer: bool = False

    @property
    def encoder_tokens(self) -> int:
        """Tokens of pictures that one step can send through the vision encoder, and that its cache can hold: vLLM's
        `compute_mm_encoder_budget` (v1/core/encoder_cache_manager.py)."""
        return max(self.max_num_batched_tokens, self.image_tokens) if self.image_tokens else 0


@dataclass(frozen=True)
class Constants:
    """What no formula tells, in bytes. Measured on an H200 with vLLM 0.32 (benchmarks/results/memory-*.json); another card's
    own are learned at its first start (`calibration.py`).

    `context`: CUDA context, libraries and kernels. `workspace`: buffers of cuBLAS and of the engine. `graph_of_layer`: one
    captured size of one layer. `fragments` and `fragments_share`: what the allocator holds beyond what is in use, fixed
    and as a share of what comes and goes. `communicator`: NCCL's buffers on each of several cards that share a server, assumed
    and not measured."""

    context: int = 735 * MIB
    workspace: int = 80 * MIB
    graph_of_layer: float = 0.24 * MIB
    fragments: int = 285 * MIB
    fragments_share: float = 0.60
    communicator: int = 256 * MIB


MEASURED = Constants()


class Parts(BaseModel):
    """Each part but the KV cache, in bytes here and in MiB in a plan. `vision_encoder` and `logits` are what they need beyond
    what the language model's activations leave them, since they run one after the other."""

    model_config = ConfigDict(frozen=True)

    weights: int
    buffers: int
    activations: int
    vision_encoder: int
    encoder_cache: int
    logits: int
    cuda_graphs: int
    context: int
    fragmentation: int

    @property
    def total(self) -> int:
        """All of them together."""
        return sum(getattr(self, name) for name in type(self).model_fields)


def parts(shape: Shape, weight_bytes: int, load: Load, constants: Constants, cards: int = 1) -> Parts:
    """Everything but the KV cache, on one of `cards` cards that share a server; `shape` and `weight_bytes` are that card's
    (`Shape.share`). The transient parts follow one another within a step: the encoder works (its output
    not yet kept), then the language model with that output in the encoder's cache, then the sampler, then who drafts."""
    text, drafts, tokens = shape.text, load.speculation, load.max_num_batched_tokens
    cache, seeing = encoder_cache(shape.vision, load), vision_encoder(shape.vision, load.encoder_tokens)
    read = speculation.hidden_states(drafts, text, tokens)
    working = max(activations(text, load) + read, speculation.drafting(drafts, text, tokens))
    sampling = sampler(text, load) + read
    together = max(cache + working, cache + sampling, seeing)
    # Each size is captured with adapters and without (vLLM's `get_lora_capture_cases`).
    layers = (2 if load.lora else 1) * text.layers + drafts.captured_layers
    return Parts(
        weights=weight_bytes
        + rotary_table(text)
        + (drafts.head.weights + rotary_table(drafts.head.text) if drafts.head else 0),
        buffers=input_buffers(shape, load)
        + penalties(text, load)
        + drawing(text, load)
        + (lora(text, load.lora) if load.lora else 0)
        + (flashinfer(text, load) if load.flashinfer else 0)
        + speculation.buffers(drafts, text, tokens, load.max_num_seqs)
        + constants.workspace,
        activations=working,
        vision_encoder=max(0, seeing - cache - max(working, sampling)),
        encoder_cache=cache,
        logits=max(0, sampling - working),
        cuda_graphs=round(load.cudagraph_sizes * layers * constants.graph_of_layer)
        + (speculation.graph_pool(drafts, text, load.max_num_seqs) if load.cudagraph_sizes else 0)
        + encoder_graphs(shape.vision, load, constants),
        context=constants.context + (constants.communicator if cards > 1 else 0),
        fragmentation=constants.fragments + round(constants.fragments_share * together),
    )


def cost_of_speculation(shape: Shape, load: Load, constants: Constants) -> int:
    """What all parts together would be less without it."""
    without = replace(load, speculation=NO_DRAFTS)
    return parts(shape, 0, load, constants).total - parts(shape, 0, without, constants).total


def activations(text: Text, load: Load) -> int:
    """The language model's peak for one step, 16 bits a number (2 × (3 × intermediate_size + 3 × hidden_size) a token; 49,152
    bytes for Qwen3-VL-2B, where vLLM 0.32 was measured at 49,152)."""
    return load.max_num_batched_tokens * text.values_per_token * _BYTES_16_BIT


def input_buffers(shape: Shape, load: Load) -> int:
    """Kept for the longest step: the input embeddings (vLLM's `EncoderRunner.inputs_embeds`) and, for each deepstack layer of
    pictures, those to be added to it (`deepstack_input_embeds` in qwen3_vl.py)."""
    a_token = _BYTES_16_BIT * shape.text.hidden_size * (1 + (shape.vision.deepstack if load.image_tokens else 0))
    return load.max_num_batched_tokens * a_token


def vision_encoder(vision: Vision, tokens: int) -> int:
    """The encoder's peak for pictures of so many tokens together, with the pixels themselves.

    For each patch, 16 bits each: in a block's feed-forward network its inner values before and after the activation
    (three times where it is gated), the block's input, residual and norm, the position embedding; the deepstack outputs
    so far; and the pixels at 8 bits. 29,312 bytes for Qwen3-VL-2B; vLLM 0.32 was measured at 29,470."""
    inner = (3 if vision.gated else 2) * vision.intermediate_size
    outputs = vision.deepstack * vision.out_hidden_size // vision.patches_per_token
    values = inner + 4 * vision.hidden_size + outputs
    a_patch = _BYTES_16_BIT * values + _ROTARY_OF_A_PATCH + vision.values_per_patch
    return tokens * vision.patches_per_token * a_patch


def encoder_graphs(vision: Vision, load: Load, constants: Constants) -> int:
    """The encoder's CUDA graphs (vLLM's `EncoderCudaGraphManager`, v1/worker/encoder_cudagraph.py): what a run of the largest
    works in, which all of them share; inputs and outputs, which each has of its own; and what the driver holds. For
    Qwen3-VL-2B, 9 budgets of up to 4,096 tokens and the language model's graphs 1,082 MiB; vLLM 0.32 said 1.07 GiB."""
    if not load.encoder_budgets:
        return 0
    of_a_patch = vision.values_per_patch + _BYTES_16_BIT * vision.hidden_size + _ROTARY_OF_A_PATCH
    of_a_token = vision.patches_per_token * of_a_patch + _BYTES_16_BIT * vision.values_per_token
    driver = round(len(load.encoder_budgets) * vision.depth * constants.graph_of_layer)
    return vision_encoder(vision, max(load.encoder_budgets)) + sum(load.encoder_budgets) * of_a_token + driver


def encoder_cache(vision: Vision, load: Load) -> int:
    """The encoder's outputs that wait for the language model: as many tokens as its budget, 16 bits a value."""
    return load.encoder_tokens * vision.values_per_token * _BYTES_16_BIT


def sampler(text: Text, load: Load) -> int:
    """Logits of a full batch: once at 16 bits, and four copies at 32 (vLLM's sampler: the copy it works on, the masked
    one, probabilities, and log probabilities where they are asked for). Those of drafts are among them; vLLM copies of these
    a GiB at a time (`MAX_CHUNK_BYTES`, v1/worker/gpu/spec_decode/rejection_sampler.py), which could only be less."""
    logits = load.max_num_seqs * load.speculation.rows * text.vocab_size
    return logits * (_BYTES_16_BIT + 4 * _BYTES_32_BIT)


def penalties(text: Text, load: Load) -> int:
    """Counts of each sequence's tokens, kept all the time: 32 bits for each word of the vocabulary, and one bit for the
    prompt's (vLLM's `PenaltiesState`, v1/worker/gpu/sample/penalties.py)."""
    return load.max_num_seqs * text.vocab_size * _BYTES_32_BIT * 33 // 32


def drawing(text: Text, load: Load) -> int:
    """Scratch rows of top-k and top-p, kept once a full batch has been drawn: 32 bits for each word of the vocabulary, one row
    for each sequence of the batch and each of its drafts, rounded up to a power of two (`_TRITON_BUFFER_CACHE`,
    v1/sample/ops/topk_topp_triton.py; never more rows than the GPU has multiprocessors, of which none has 256)."""
    rows = 1 << max(0, load.max_num_seqs * load.speculation.rows - 1).bit_length()
    return min(rows, _MOST_MULTIPROCESSORS) * text.vocab_size * _BYTES_32_BIT


def flashinfer(text: Text, load: Load) -> int:
    """FlashInfer's workspace, which FlashAttention does without: 394 MiB, or 16 bytes for each number of a step's queries where
    these are more (`_get_workspace_buffer`, v1/attention/backends/flashinfer.py)."""
    return max(_FLASHINFER_WORKSPACE, 16 * load.max_num_batched_tokens * text.heads * text.head_dim)


def rotary_table(text: Text) -> int:
    """Cosines and sines of every position in vLLM's table, 16 bits (`cos_sin_cache` of `MRotaryEmbedding`,
    layers/rotary_embedding/mrope.py)."""
    return text.max_positions * text.positions_factor * text.head_dim * _BYTES_16_BIT


def lora(text: Text, slots: Slots) -> int:
    """Adapters' slots, 16 bits: for each layer that one of them changes a matrix from its inputs to the rank and one from the
    rank to its outputs, and as often for layers that vLLM has merged into one (`create_lora_weights` in
    vllm/lora/layers/column_parallel_linear.py, row_parallel_linear.py, vocab_parallel_embedding.py, logits_processor.py)."""
    d, inner, vocab = text.hidden_size, text.intermediate_size, text.vocab_size
    queries, values = text.heads * text.head_dim, text.kv_heads * text.head_dim
    in_each_layer: dict[tuple[str, ...], int] = {
        ("q_proj", "k_proj", "v_proj"): 3 * d + queries + 2 * values,
        ("o_proj",): queries + d,
        ("gate_proj", "up_proj"): 2 * (d + inner),
        ("down_proj",): inner + d,
    }
    once: dict[tuple[str, ...], int] = {("embed_tokens",): vocab + d, ("lm_head",): d + vocab}

    def widths(of: dict[tuple[str, ...], int]) -> int:
        return sum(width for names, width in of.items() if slots.modules is None or slots.modules.intersection(names))

    together = text.layers * widths(in_each_layer) + widths(once)
    return slots.max_loras * slots.max_lora_rank * together * _BYTES_16_BIT


def kv_bytes_per_token(text: Text) -> int:
    """A key and a value of 16 bits for each layer that keeps them and each KV head: 2 × layers × KV heads × head size × 2. The
    layers of a head that drafts keep theirs in the same cache, for the same tokens."""
    return 2 * text.kv_layers * text.kv_heads * text.head_dim * _BYTES_16_BIT


def kv_tokens(cache: int, token: int, block: int) -> int:
    """Tokens in a cache of so many bytes: whole blocks, of which vLLM never gives out the first (`BlockPool.null_block`,
    v1/core/block_pool.py)."""
    return max(0, cache // (block * token) - 1) * block


def kv_bytes(tokens: int, token: int, block: int) -> int:
    """The smallest cache that holds so many tokens: what vLLM asks for before it serves (`check_enough_kv_cache_memory`,
    v1/core/kv_cache_utils.py)."""
    return (-(-tokens // block) + 1) * block * token


def state_bytes_per_sequence(text: Text) -> int:
    """The recurrent state that a sequence keeps in layers without keys and values: convolution inputs at 16 bits, the
    state itself at 32 (vLLM's `gated_delta_net_state_shape` and `_dtype`, layers/mamba/mamba_utils.py)."""
    short, long = text.state_elements
    return short * _BYTES_16_BIT + long * _BYTES_32_BIT
