"""What a plan refuses, gives up and promises: checks what was asked for against the model, and puts results into words. Pure.

What would fit instead is found in `advice.py`; a plan as a whole is described in `describe.py`.
"""

from collections.abc import Sequence

from serving.errors import UsageError
from serving.machine.onecards import among
from serving.models.architecture import Shape, Text, Vision
from serving.models.weights import Weights
from serving.planning.adapters import Adapter
from serving.planning.asked import Asked
from serving.planning.plan import Expected, MemoryMib, PlannedGpu
from serving.planning.policy import Settings
from serving.planning.profile import GpuFacts, Model

# The full bandwidth is never reached; this share of it is a convention until it is measured on the card.
_DECODE_EFFICIENCY = 0.7
# Between cards without NVLink or peer access, such as GeForce cards: the time of a small all-reduce through the host's memory,
# and the bandwidth of a PCIe 4.0 x8 slot. Assumed, not measured.
_EXCHANGE_S = 25e-6
_PCIE_BYTES_S = 12e9
# The tokens of a question about a picture, without the picture: its words, the chat template's, and an answer.
QUESTION_TOKENS = 256
# Layers whose input is the hidden state itself.
_FROM_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def check_context(asked: Asked, shape: Shape) -> None:
    """Raises UsageError for a context longer than the model's."""
    context = asked.number("max_model_len")
    longest = shape.text.max_positions
    if context is not None and context > longest:
        raise UsageError(f"--max-model-len {context:,} is more than the {longest:,} tokens that the model knows.")


def check_steps(settings: Settings) -> None:
    """Raises UsageError if a step has fewer tokens than there may be running requests: vLLM would not start."""
    requests, tokens = settings.max_num_seqs, settings.max_num_batched_tokens
    if requests > tokens:
        raise UsageError(
            f"{requests:,} requests at once need a token each of every step, and a step has {tokens:,}: choose a smaller "
            "--max-num-seqs or a larger --max-num-batched-tokens."
        )


def check_whole(asked: Asked, settings: Settings, context: int, image_tokens: int) -> None:
    """Raises UsageError where prompts or pictures are to go through in one step that is too short for the longest; vLLM does
    not start with such."""
    step = settings.max_num_batched_tokens
    for flag, whole, longest in (
        ("--no-enable-chunked-prefill", asked.args.get("enable_chunked_prefill") is False, context),
        ("--disable-chunked-mm-input", asked.args.get("disable_chunked_mm_input"), image_tokens),
    ):
        if whole and longest > step:
            raise UsageError(
                f"{flag}: {longest:,} tokens would go through in one step, and a step has {step:,}. Leave it out."
            )


def pixels_within(context: int, pixels: int, vision: Vision, *, least: int) -> int:
    """`pixels`, or as many as leave room for a question about the picture in a context of `context` tokens. Raises UsageError
    if that is fewer than `least`."""
    most = (context - QUESTION_TOKENS) * vision.pixels_per_token
    if most < least:
        raise UsageError(
            f"A picture of {least:,} pixels is {least // vision.pixels_per_token:,} tokens, and a conversation has "
            f"{context:,}, of which a question takes some {QUESTION_TOKENS}: choose smaller pictures or a larger "
            "--max-model-len, or no pictures (--limit-mm-per-prompt '{\"image\": 0}')."
        )
    return min(pixels, most)


def check_adapters(adapters: Sequence[Adapter], shape: Shape, model: Model) -> None:
    """Raises UsageError for adapters whose slots have no formula, that have the model's own name, or that were trained for a
    model of another size."""
    if adapters and any(shape.text.state_elements):
        raise UsageError(f"Adapters cannot be planned for {shape.architecture}: leave --lora-modules out.")
    for adapter in adapters:
        if adapter.name in model.served_model_name:
            raise UsageError(f"The adapter {adapter.name!r} has the model's own name: give it another one.")
        width = next(
            (adapter.inputs[layer] for layer in _FROM_HIDDEN if layer in adapter.inputs), shape.text.hidden_size
        )
        if width != shape.text.hidden_size:
            raise UsageError(
                f"The adapter {adapter.name!r} was trained for a model that is {width:,} wide, and this one is "
                f"{shape.text.hidden_size:,}: serve it with the model that its adapter_config.json names."
            )


def conceded(wish: Settings, settings: Settings) -> tuple[str, ...]:
    """What became smaller than wished, in words."""
    words = {
        "max_num_batched_tokens": "steps of {1:,} instead of {0:,} tokens (long prompts take more of them)",
        "max_num_seqs": "{1} instead of {0} requests at once",
        "max_image_pixels": "pictures of {1:,} instead of {0:,} pixels",
    }
    pairs = {name: (getattr(wish, name), getattr(settings, name)) for name in words}
    smaller = tuple(words[name].format(*pair) for name, pair in pairs.items() if pair[0] != pair[1])
    graphs = "CUDA graphs of pictures and prompts (their first token comes later)"
    return ((graphs,) if wish.prompt_graphs and not settings.prompt_graphs else ()) + smaller


def reason_against(
    gpu: PlannedGpu, planned: MemoryMib, kv_tokens: int, context: int, needed_mib: int, precision: str
) -> str | None:
    """Why a plan does not fit, None if it does. `needed_mib` is the KV cache of a conversation of `context` tokens."""
    beside = planned.total - planned.kv_cache
    if beside >= gpu.usable_mib:
        return (
            f"the weights take {planned.weights:,} MiB ({precision}) and everything else but the KV cache "
            f"{beside - planned.weights:,} MiB, and {gpu.name} has {gpu.usable_mib:,} MiB to use"
            + (f" while other programs hold {gpu.taken_mib:,} MiB more than usual" if gpu.taken_mib else "")
            + among(gpu.onecards)
        )
    if planned.total > gpu.usable_mib:
        return (
            f"--kv-cache-memory-bytes asks for {planned.kv_cache:,} MiB, and {gpu.usable_mib - beside:,} MiB are left for it "
            f"of {gpu.usable_mib:,} MiB, beside the weights and everything else"
        )
    if kv_tokens < context:
        return (
            f"a conversation of {context:,} tokens needs {needed_mib:,} MiB of KV cache, and {planned.kv_cache:,} MiB are "
            f"planned for it, which is {kv_tokens:,} tokens"
        )
    return None


def exchanges(text: Text) -> int:
    """How often cards that share a server wait for each other per token: after the attention and after the feed-forward network
    of every layer (vLLM's `RowParallelLinear`)."""
    return 2 * text.layers


def cost_of_sharing(text: Text, cards: int) -> str:
    """What sharing a server costs without NVLink, in words. Each exchange sends every token's hidden state, 16 bits a value,
    2 × (cards - 1) / cards times (ring all-reduce)."""
    waits_ms = 1e3 * exchanges(text) * _EXCHANGE_S
    sent_bytes = exchanges(text) * text.hidden_size * 2 * 2 * (cards - 1) / cards
    return (
        f"a server for each card: {cards} share this model and wait for each other {exchanges(text)} times a token. Without "
        f"NVLink that is about {waits_ms:.1f} ms, and {1e6 * sent_bytes / _PCIE_BYTES_S:.0f} ms for 1,000 tokens of prompt "
        "(derived, not measured)"
    )


def expected(facts: GpuFacts | None, weights: Weights, exchanged: int = 0) -> Expected:
    """The decoding speed that the memory bandwidth allows, if that is known. `exchanged` is how often cards that share a server
    wait for each other per token."""
    if facts is None:
        return Expected(decode_tokens_per_s=None, source="no bandwidth bound is known for this CPU")
    reading_s = max(1, weights.read_per_token) / (facts.bandwidth_gb_s * 1e9 * _DECODE_EFFICIENCY)
    source = (
        f"derived, not measured: {facts.bandwidth_gb_s:g} GB/s over {weights.read_per_token / 1e6:,.0f} MB of language model "
        f"read for each token, times {_DECODE_EFFICIENCY} by convention"
    )
    if weights.offloaded:
        reading_s += weights.offloaded / _PCIE_BYTES_S
        source += (
            f"; and {weights.offloaded / 1e6:,.0f} MB more from the machine's memory at {_PCIE_BYTES_S / 1e9:g} GB/s, by "
            "assumption"
        )
    if exchanged:
        source += (
            f"; and {exchanged} exchanges between the cards of {1e6 * _EXCHANGE_S:.0f} microseconds each, by assumption"
        )
    return Expected(decode_tokens_per_s=round(1 / (reading_s + exchanged * _EXCHANGE_S), 1), source=source)
