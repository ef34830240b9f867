"""How many bytes each part of the GPU's memory takes, as pure functions of the model's shape and of the largest load that the
engine may be given. Which load a card can carry is decided in `planner.py`.

What follows from vLLM's code is a formula that cites its source; what can only be measured is a field of `Constants`. Vision
encoder and language model run one after the other in the same memory, so the parts are counted to sum to the peak.
"""

from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from serving.models.architecture import Shape, Text, Vision
from serving.planning import speculation
from serving.planning.layout import NO_LAYOUT, Layout
from serving.planning.speculation import NO_DRAFTS, Speculation

MIB = 2**20
_BYTES_16_BIT, _BYTES_32_BIT = 2, 4
_ROTARY_OF_A_PATCH = 2 * _BYTES_16_BIT * 32  # cosine and sine of half a head's dimensions
_MOST_MULTIPROCESSORS = 256
_FLASHINFER_WORKSPACE = 394 * MIB


@dataclass(frozen=True)
class Slots:
    """What vLLM reserves for LoRA adapters, by its own names. `modules` are the layers that they may change, by the last part
    of their names (`q_proj`); None means every layer."""

    max_loras: int
    max_lora_rank: int
    modules: frozenset[str] | None


@dataclass(frozen=True)
class Load:
    """The largest load that the engine may be given, by vLLM's names. `image_tokens` are those of the largest picture,
    `cudagraph_sizes` is the number of captured batch sizes, and the vision encoder has a CUDA graph for each of
    `encoder_budgets`, in tokens. `flashinfer` says whether it computes the attention, `sixteen_bit` whether the language
    model's matrices have 16 bits, so that cuBLAS multiplies them."""

    max_num_seqs: int
    max_num_batched_tokens: int
    image_tokens: int
    cudagraph_sizes: int
    encoder_budgets: tuple[int, ...] = ()
    lora: Slots | None = None
    speculation: Speculation = NO_DRAFTS
    flashinfer: bool = False
    sixteen_bit: bool = False

    @property
    def encoder_tokens(self) -> int:
        """Image tokens that one step can send through the vision encoder, and that the encoder cache holds: vLLM's
        `compute_mm_encoder_budget` (v1/core/encoder_cache_manager.py)."""
        return max(self.max_num_batched_tokens, self.image_tokens) if self.image_tokens else 0


@dataclass(frozen=True)
class Constants:
    """What no formula gives, in bytes. Measured on an H200 with vLLM 0.32 (benchmarks/results/memory-*.json); other cards
    are measured at their first start (`calibration.py`).

    `context`: CUDA context, libraries and kernels. `workspace`: buffers of cuBLAS and of the engine; `cublas`: what cuBLAS
    takes more where it multiplies the language model's matrices. `graph_of_layer`: one captured size of one layer.
    `fragments` and `fragments_share`: what the allocator holds beyond what is in use and beyond what follows from sizes, where
    its segments grow (`expandable_segments`); a fixed part and a share of the transient memory. `communicator`: NCCL's
    buffers on each of several cards that share a server (assumed, not measured)."""

    context: int = 735 * MIB
    workspace: int = 80 * MIB
    cublas: int = 64 * MIB
    graph_of_layer: float = 0.24 * MIB
    fragments: int = 60 * MIB
    fragments_share: float = 0.06
    communicator: int = 256 * MIB


MEASURED = Constants()
# More of them where the segments do not grow: pictures of many sizes leave gaps, and the more so the more comes and goes.
_GAPS, _GAPS_SHARE = 138 * MIB, 0.60
# More of them where the vision encoder has CUDA graphs, whose memory nothing else uses (the sum, at 24 GB).
_BESIDE_ENCODER_GRAPHS = 200 * MIB


def with_fixed_segments(constants: Constants) -> Constants:
    """The same where the allocator's segments cannot grow."""
    return replace(constants, fragments=constants.fragments + _GAPS, fragments_share=_GAPS_SHARE)


class Parts(BaseModel):
    """Every part except the KV cache, in bytes here and in MiB in a plan. `vision_encoder` and `logits` run before and after
    the language model, in the memory of its activations: they count only what they need beyond that."""

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
        """The sum of all parts."""
        return sum(getattr(self, name) for name in type(self).model_fields)


def parts(
    shape: Shape, weight_bytes: int, load: Load, constants: Constants, cards: int = 1, layout: Layout = NO_LAYOUT
) -> Parts:
    """Everything except the KV cache, on one of `cards` cards that share a server; `shape`, `weight_bytes` and the weights'
    `layout` are that card's share (`Shape.share`). The transient parts follow one another within a step: the vision encoder,
    whose output is not yet cached; the language model, with that output in the cache; the sampler; and the drafting head."""
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
        + constants.workspace
        + (constants.cublas if load.sixteen_bit else 0)
        + layout.rounding,
        activations=working,
        vision_encoder=max(0, seeing - cache - max(working, sampling)),
        encoder_cache=cache,
        logits=max(0, sampling - working),
        cuda_graphs=round(load.cudagraph_sizes * layers * constants.graph_of_layer)
        + (speculation.graph_pool(drafts, text, load.max_num_seqs) if load.cudagraph_sizes else 0)
        + encoder_graphs(shape.vision, load, constants),
        context=constants.context + (constants.communicator if cards > 1 else 0),
        fragmentation=layout.gaps
        + outgrown(shape, load)
        + constants.fragments
        + round(constants.fragments_share * together)
        + (_BESIDE_ENCODER_GRAPHS if load.encoder_budgets else 0),
    )


def cost_of_speculation(shape: Shape, load: Load, constants: Constants) -> int:
    """By how much all parts together would shrink without it."""
    without = replace(load, speculation=NO_DRAFTS)
    return parts(shape, 0, load, constants).total - parts(shape, 0, without, constants).total


def activations(text: Text, load: Load) -> int:
    """The language model's peak in one step at 16 bits: 2 × (3 × intermediate_size + 3 × hidden_size) bytes a token. That is
    49,152 for Qwen3-VL-2B; vLLM 0.32 was measured at 49,152."""
    return load.max_num_batched_tokens * text.values_per_token * _BYTES_16_BIT


def input_buffers(shape: Shape, load: Load) -> int:
    """Allocated for the longest step: the input embeddings (vLLM's `EncoderRunner.inputs_embeds`) and the embeddings that each
    deepstack layer of pictures adds (`deepstack_input_embeds` in qwen3_vl.py)."""
    a_token = _BYTES_16_BIT * shape.text.hidden_size * (1 + (shape.vision.deepstack if load.image_tokens else 0))
    return load.max_num_batched_tokens * a_token


def vision_encoder(vision: Vision, tokens: int) -> int:
    """The encoder's peak for pictures of `tokens` tokens together, their pixels included.

    For each patch, at 16 bits: the inner values of a block's feed-forward network before and after the activation (three
    copies where it is gated); the block's input, residual and norm; the position embedding; the deepstack outputs so far.
    And the pixels, at 8 bits. 29,312 bytes a patch for Qwen3-VL-2B; vLLM 0.32 was measured at 29,470."""
    inner = (3 if vision.gated else 2) * vision.intermediate_size
    outputs = vision.deepstack * vision.out_hidden_size // vision.patches_per_token
    values = inner + 4 * vision.hidden_size + outputs
    a_patch = _BYTES_16_BIT * values + _ROTARY_OF_A_PATCH + vision.values_per_patch
    return tokens * vision.patches_per_token * a_patch


def outgrown(shape: Shape, load: Load) -> int:
    """By how much the language model's largest tensor, its gate and up projections, exceeds the vision encoder's of as many
    tokens: it does not fit where that was a moment ago, and is put beside it. 114 MiB for Qwen3-VL-8B in steps of 8,192
    tokens, where an H200 held 222 MiB beyond the gaps between weights; 0 for the 2B, where it held 19 to 49."""
    text, vision = shape.text, shape.vision
    inner = vision.patches_per_token * vision.intermediate_size * (2 if vision.gated else 1)
    more = max(0, 2 * text.intermediate_size - inner) * _BYTES_16_BIT
    return load.max_num_batched_tokens * more if load.image_tokens else 0


def encoder_graphs(vision: Vision, load: Load, constants: Constants) -> int:
    """The encoder's CUDA graphs (vLLM's `EncoderCudaGraphManager`, v1/worker/encoder_cudagraph.py): the working memory of the
    largest, which all share; the inputs and outputs of each; and what the driver holds. With the language model's graphs
    1,082 MiB for Qwen3-VL-2B and 9 budgets of up to 4,096 tokens; vLLM 0.32 reported 1.07 GiB."""
    if not load.encoder_budgets:
        return 0
    of_a_patch = vision.values_per_patch + _BYTES_16_BIT * vision.hidden_size + _ROTARY_OF_A_PATCH
    of_a_token = vision.patches_per_token * of_a_patch + _BYTES_16_BIT * vision.values_per_token
    driver = round(len(load.encoder_budgets) * vision.depth * constants.graph_of_layer)
    return vision_encoder(vision, max(load.encoder_budgets)) + sum(load.encoder_budgets) * of_a_token + driver


def encoder_cache(vision: Vision, load: Load) -> int:
    """The encoder's outputs that wait for the language model: `encoder_tokens` of them, 16 bits a value."""
    return load.encoder_tokens * vision.values_per_token * _BYTES_16_BIT


def sampler(text: Text, load: Load) -> int:
    """Logits of a full batch, drafts included: once at 16 bits, and four copies at 32 (vLLM's sampler: its working copy, the
    masked one, probabilities, and log probabilities where they are asked for). This is an upper bound: of drafts, vLLM copies
    a GiB at a time (`MAX_CHUNK_BYTES`, v1/worker/gpu/spec_decode/rejection_sampler.py)."""
    logits = load.max_num_seqs * load.speculation.rows * text.vocab_size
    return logits * (_BYTES_16_BIT + 4 * _BYTES_32_BIT)


def penalties(text: Text, load: Load) -> int:
    """Token counts, held permanently: for each sequence and each word of the vocabulary, 32 bits for the output and one bit for
    the prompt (vLLM's `PenaltiesState`, v1/worker/gpu/sample/penalties.py)."""
    return load.max_num_seqs * text.vocab_size * _BYTES_32_BIT * 33 // 32


def drawing(text: Text, load: Load) -> int:
    """Scratch rows of top-k and top-p, held once a full batch has been sampled: a row for each sequence and each of its drafts,
    rounded up to a power of two, 32 bits for each word of the vocabulary (`_TRITON_BUFFER_CACHE`,
    v1/sample/ops/topk_topp_triton.py; at most a row for each of the GPU's multiprocessors, and no GPU has 256)."""
    rows = 1 << max(0, load.max_num_seqs * load.speculation.rows - 1).bit_length()
    return min(rows, _MOST_MULTIPROCESSORS) * text.vocab_size * _BYTES_32_BIT


def flashinfer(text: Text, load: Load) -> int:
    """FlashInfer's workspace, which FlashAttention does without: 394 MiB, or 16 bytes for each number of a step's queries where
    these are more (`_get_workspace_buffer`, v1/attention/backends/flashinfer.py)."""
    return max(_FLASHINFER_WORKSPACE, 16 * load.max_num_batched_tokens * text.heads * text.head_dim)


def rotary_table(text: Text) -> int:
    """vLLM's table of the cosine and sine of every position, 16 bits each (`cos_sin_cache` of `MRotaryEmbedding`,
    layers/rotary_embedding/mrope.py)."""
    return text.max_positions * text.positions_factor * text.head_dim * _BYTES_16_BIT


def lora(text: Text, slots: Slots) -> int:
    """The adapters' slots, 16 bits a value: for each layer that an adapter may change, one matrix from its inputs to the rank
    and one from the rank to its outputs; layers that vLLM merges still get a pair each (`create_lora_weights` in
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
    """A key and a value at 16 bits in every layer that caches them: 2 × layers × KV heads × head size × 2. A drafting head's
    layers use the same cache, for the same tokens."""
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
    """A sequence's recurrent state in the layers without keys and values: convolution inputs at 16 bits, the state itself at
    32 (vLLM's `gated_delta_net_state_shape` and `_dtype`, layers/mamba/mamba_utils.py)."""
    short, long = text.state_elements
    return short * _BYTES_16_BIT + long * _BYTES_32_BIT
