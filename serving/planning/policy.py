"""What a policy asks of the engine, and in which order it gives way on a card that is too small for all of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from serving.planning.profile import Policy

_SMALLEST_BATCH = 1024
_SMALLEST_PIXELS = 640 * 640
_FEWEST_SEQUENCES = 4


@dataclass(frozen=True)
class Settings:
    """What the plan decides, by vLLM's names; `max_image_pixels` are those of the largest picture, and `prompt_graphs` are CUDA
    graphs of what is no step of running answers alone: the vision encoder, and prompts of a picture or two."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_image_pixels: int
    prompt_graphs: bool = False


# One person waits for the first word; many share; a folder is worked through. How many run at once costs little memory, and
# who is not among them waits for whole answers to end: on an H200 with 64 clients vLLM gave 14.6 pictures a second with 16 at
# once and steps of 2,048 tokens, and 31 with its defaults, all at once and 8,192. How long a step may be is what a running
# answer can be held up by.
_WISHES: dict[Policy, tuple[int, int]] = {
    "interactivity": (32, 2048),
    "balanced": (64, 4096),
    "throughput": (128, 8192),
}
# Tokens to an event of a stream (vLLM's `stream_interval`). An event takes the one API process 0.1 to 0.2 ms, so that 64
# answers, a token an event, were held up by it and not by the GPU: 33.9 pictures a second on an H200, and 38.9 with four.
STREAM_INTERVALS: dict[Policy, int] = {"interactivity": 1, "balanced": 4, "throughput": 8}
# Data-centre chips do a picture in less time than the host needs to launch its kernels: of a 1024×768 one the vision encoder
# worked 7 ms on an H200, and the first token came after 58 ms, with graphs after 42. By the roofline it is 40 ms on a 4090
# and 256 on a 3060: there launches hide behind the work, and a batch padded to a graph's size would be all loss.
_FASTER_THAN_LAUNCHES = ("8.0", "9.0", "10.0", "10.3")
_SMALLEST_GRAPH, _LARGEST_PROMPT_GRAPH = 256, 1024


def wished(policy: Policy, max_image_pixels: int, compute_capability: str | None = None) -> Settings:
    """What the policy would take where memory is no question, on a chip of that compute capability."""
    max_num_seqs, max_num_batched_tokens = _WISHES[policy]
    graphs = policy != "interactivity" and compute_capability in _FASTER_THAN_LAUNCHES
    return Settings(max_num_seqs, max_num_batched_tokens, max_image_pixels, prompt_graphs=graphs)


def concessions(settings: Settings, fixed: frozenset[str]) -> Iterator[Settings]:
    """Ever smaller settings, what is missed least first: graphs of prompts, shorter steps, fewer requests at once, smaller
    pictures. What is `fixed` by the user stays."""
    if settings.prompt_graphs and "prompt_graphs" not in fixed:
        settings = replace(settings, prompt_graphs=False)
        yield settings
    floors = {
        # Each request that runs takes a token of a step.
        "max_num_batched_tokens": max(_SMALLEST_BATCH, settings.max_num_seqs),
        "max_num_seqs": _FEWEST_SEQUENCES,
        "max_image_pixels": _SMALLEST_PIXELS,
    }
    for name, floor in floors.items():
        while name not in fixed and (half := getattr(settings, name) // 2) >= floor:
            settings = replace(settings, **{name: half})
            yield settings


def cudagraph_sizes(settings: Settings, rows: int = 1) -> list[int]:
    """The batch sizes worth a CUDA graph of their own, where a request takes so many rows of a step: those of all
    numbers of requests up to 8, then of ever fewer, up to as many as can run at once; and with graphs of prompts those of a
    picture or two.

    vLLM's own choice for `interactivity` is every size to 32 and more beyond what can run: each costs memory and start."""
    most = settings.max_num_seqs
    sizes = {*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, most + 1, 8), most}
    longest = min(_LARGEST_PROMPT_GRAPH, settings.max_num_batched_tokens) if settings.prompt_graphs else 0
    prompts = (size for size in _half_steps(longest) if size > most * rows)
    return sorted({*(size * rows for size in sizes if size <= most), *prompts})


def flashinfer(compute_capability: str | None, kv_bytes_per_value: int, attention_backend: str | None) -> bool:
    """Whether vLLM leaves the attention to FlashInfer: where it is told so, on data-centre Blackwells, and for an 8-bit KV
    cache on chips on which FlashAttention reads none (`_get_backend_priorities` in vllm/platforms/cuda.py,
    `flash_attn_supports_kv_cache_dtype` in v1/attention/backends/fa_utils.py)."""
    if compute_capability is None:
        return False
    if attention_backend:
        return attention_backend.upper() == "FLASHINFER"
    major = int(compute_capability.partition(".")[0])
    return major == 10 or (major in (8, 12) and kv_bytes_per_value == 1)


def encoder_budgets(settings: Settings, encoder_tokens: int) -> tuple[int, ...]:
    """The numbers of a picture's tokens for which the vision encoder gets a CUDA graph (vLLM's
    `encoder_cudagraph_token_budgets`); a batch is padded to the next one, by a sixth on average. None without such graphs."""
    return tuple(_half_steps(encoder_tokens)) if settings.prompt_graphs else ()


def _half_steps(most: int) -> list[int]:
    """256, 384, 512, 768, 1,024, … and `most`."""
    if most < _SMALLEST_GRAPH:
        return []
    powers = [_SMALLEST_GRAPH << n for n in range((most // _SMALLEST_GRAPH).bit_length())]
    return sorted({most, *(size for power in powers for size in (power, power * 3 // 2) if size < most)})
