"""What a policy asks of the engine, and in which order it gives way on a card that is too small for all of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from serving.profile import Policy

_SMALLEST_BATCH = 1024
_SMALLEST_PIXELS = 640 * 640
_FEWEST_SEQUENCES = 4


@dataclass(frozen=True)
class Settings:
    """What the plan decides, by vLLM's names; `max_image_pixels` are those of the largest picture."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_image_pixels: int


# One person waits for the first word; many share; a folder is worked through. How many run at once costs little memory, and
# who is not among them waits for whole answers to end: on an H200 with 64 clients vLLM gave 14.6 pictures a second with 16 at
# once and steps of 2,048 tokens, and 31 with its defaults, all at once and 8,192. How long a step may be is what a running
# answer can be held up by.
_WISHES: dict[Policy, tuple[int, int]] = {
    "interactivity": (32, 2048),
    "balanced": (64, 4096),
    "throughput": (128, 8192),
}


def wished(policy: Policy, max_image_pixels: int) -> Settings:
    """What the policy would take where memory is no question."""
    max_num_seqs, max_num_batched_tokens = _WISHES[policy]
    return Settings(max_num_seqs, max_num_batched_tokens, max_image_pixels)


def concessions(settings: Settings, fixed: frozenset[str]) -> Iterator[Settings]:
    """Ever smaller settings, what is missed least first: shorter steps, fewer requests at once, smaller pictures. What is
    `fixed` by the user stays."""
    floors = {
        "max_num_batched_tokens": _SMALLEST_BATCH,
        "max_num_seqs": _FEWEST_SEQUENCES,
        "max_image_pixels": _SMALLEST_PIXELS,
    }
    for name, floor in floors.items():
        while name not in fixed and (half := getattr(settings, name) // 2) >= floor:
            settings = replace(settings, **{name: half})
            yield settings


def cudagraph_sizes(max_num_seqs: int) -> list[int]:
    """The batch sizes worth a CUDA graph of their own: all up to 8, then ever fewer, up to as many as can run at once.

    vLLM's own choice for `interactivity` is every size to 32 and more beyond what can run: each costs memory and start."""
    sizes = {*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, max_num_seqs + 1, 8), max_num_seqs}
    return sorted(size for size in sizes if size <= max_num_seqs)
