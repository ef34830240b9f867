"""What a plan says: the card, each part of its memory, vLLM's arguments, and the limits that the guard enforces. Data only;
`planner.py` makes it.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from serving.profile import Limits


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlannedGpu(_Frozen):
    """`usable_mib` is what onecard may take: the whole, less what desktop and other programs hold."""

    name: str
    total_mib: int
    usable_mib: int


class MemoryMib(_Frozen):
    """The parts of the memory in MiB. They sum to `total`. `vision_encoder` and `logits` are what they need beyond what the
    language model's activations leave them, since they run one after the other."""

    weights: int
    buffers: int
    activations: int
    vision_encoder: int
    encoder_cache: int
    logits: int
    cuda_graphs: int
    context: int
    fragmentation: int
    headroom: int
    kv_cache: int
    total: int


class Capacity(_Frozen):
    """`concurrent_images` pictures of the largest size fit into the KV cache at once; `encoder_tokens` is what one step
    may send through the vision encoder, and what its cache holds."""

    kv_tokens: int
    max_model_len: int
    max_num_seqs: int
    image_tokens: int
    concurrent_images: int
    encoder_tokens: int


class Expected(_Frozen):
    decode_tokens_per_s: float | None
    source: str


class Plan(_Frozen):
    """What `onecard plan --json` prints. `given_up` says in words what was made smaller than wished, and for what;
    `alternatives` what would fit where this does not."""

    profile: str
    model: str
    precision: str
    fits: bool
    reason: str | None
    alternatives: tuple[str, ...] = ()
    predicted: bool = True
    given_up: tuple[str, ...] = ()
    gpu: PlannedGpu
    memory_mib: MemoryMib
    engine_args: dict[str, Any]
    capacity: Capacity
    limits: Limits
    expected: Expected
