"""What each policy asks of the engine, and the order in which it gives way on a card that is too small for all of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from serving.planning.profile import Policy

_SMALLEST_BATCH = 1024
_SMALLEST_PIXELS = 640 * 640
_FEWEST_SEQUENCES = 4


@dataclass(frozen=True)
class Settings:
    """What the plan decides, by vLLM's names. `max_image_pixels` is the size of the largest picture; `prompt_graphs` turns on
    CUDA graphs for more than decoding: the vision encoder, and prompts with a picture or two."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_image_pixels: int
    prompt_graphs: bool = False


# `interactivity`: one person waits for the first word; `balanced`: many share; `throughput`: a folder is worked through.
# Running more requests at once costs little memory, and one that is not running waits for whole answers to end: on an H200 with
# 64 clients vLLM gave 14.6 pictures a second with 16 at once and steps of 2,048 tokens, and 31 with its defaults, all at once
# and 8,192. A long step holds up the answers that are running.
_WISHES: dict[Policy, tuple[int, int]] = {
    "interactivity": (32, 2048),
    "balanced": (64, 4096),
    "throughput": (128, 8192),
}
# Tokens per event of a stream (vLLM's `stream_interval`). Each event costs the one API process 0.1 to 0.2 ms, so with 64
# answers and a token per event it was the bottleneck, not the GPU: 33.9 pictures a second on an H200, and 38.9 with four.
STREAM_INTERVALS: dict[Policy, int] = {"interactivity": 1, "balanced": 4, "throughput": 8}
# Data-centre chips process a picture faster than the host can launch its kernels: for one of 1024×768 the vision encoder worked
# 7 ms on an H200, and the first token came after 58 ms, with graphs after 42. By the roofline it takes 40 ms on a 4090 and 256
# on a 3060: there launches hide behind the work, and padding a batch to a graph's size would only cost.
_FASTER_THAN_LAUNCHES = ("8.0", "9.0", "10.0", "10.3")
_SMALLEST_GRAPH, _LARGEST_PROMPT_GRAPH = 256, 1024


def wished(policy: Policy, max_image_pixels: int, compute_capability: str | None = None) -> Settings:
    """What the policy would choose with unlimited memory, on a chip of that compute capability."""
    max_num_seqs, max_num_batched_tokens = _WISHES[policy]
    graphs = policy != "interactivity" and compute_capability in _FASTER_THAN_LAUNCHES
    return Settings(max_num_seqs, max_num_batched_tokens, max_image_pixels, prompt_graphs=graphs)


def concessions(settings: Settings, fixed: frozenset[str]) -> Iterator[Settings]:
    """Ever smaller settings, beginning with what is missed least: graphs of prompts, long steps, many requests at once, large
    pictures. What the user has `fixed` stays."""
    if settings.prompt_graphs and "prompt_graphs" not in fixed:
        settings = replace(settings, prompt_graphs=False)
        yield settings
    floors = {
        # Every running request takes a token of each step.
        "max_num_batched_tokens": max(_SMALLEST_BATCH, settings.max_num_seqs),
        "max_num_seqs": _FEWEST_SEQUENCES,
        "max_image_pixels": _SMALLEST_PIXELS,
    }
    for name, floor in floors.items():
        while name not in fixed and (half := getattr(settings, name) // 2) >= floor:
            settings = replace(settings, **{name: half})
            yield settings


def cudagraph_sizes(settings: Settings, rows: int = 1) -> list[int]:
    """The batch sizes that get a CUDA graph, where each request takes `rows` rows of a step: those of every number of requests
    up to 8, then in growing steps up to the most that can run at once; with graphs of prompts, also those of a picture or two.

    vLLM's own choice for `interactivity` is every size up to 32, and sizes beyond what can run: each costs memory and time at
    the start."""
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
    """The numbers of image tokens for which the vision encoder gets a CUDA graph (vLLM's `encoder_cudagraph_token_budgets`); a
    batch is padded to the next one, by a sixth on average. Empty without such graphs."""
    return tuple(_half_steps(encoder_tokens)) if settings.prompt_graphs else ()


def _half_steps(most: int) -> list[int]:
    """256, 384, 512, 768, 1,024, … and `most`."""
    if most < _SMALLEST_GRAPH:
        return []
    powers = [_SMALLEST_GRAPH << n for n in range((most // _SMALLEST_GRAPH).bit_length())]
    return sorted({most, *(size for power in powers for size in (power, power * 3 // 2) if size < most)})
