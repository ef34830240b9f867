"""What a plan says: the card, each part of its memory, vLLM's arguments, and the limits that the guard enforces. Data only:
`planner.py` makes it.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from serving.machine.onecards import Onecard
from serving.planning.memory import MIB, Parts
from serving.planning.profile import Limits


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlannedGpu(_Frozen):
    """`usable_mib` is what onecard may take: the card, less what is kept free for desktop and other programs, less `taken_mib`,
    which these hold now beyond that; `onecards` are the onecards among them. `present_mib` is the memory of the GPU in this
    machine, which may be larger than the planned one; None where there is none."""

    name: str
    total_mib: int
    usable_mib: int
    taken_mib: int = 0
    present_mib: int | None = None
    onecards: tuple[Onecard, ...] = ()


class MemoryMib(Parts):
    """The parts of the memory in MiB; they sum to `total`."""

    headroom: int
    kv_cache: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return super().total

    @classmethod
    def of(cls, parts: Parts, *, headroom: int) -> "MemoryMib":
        """From bytes, each part rounded up to MiB. There is no KV cache yet."""
        rounded = {name: -(-value // MIB) for name, value in parts.model_dump().items()}
        return cls(**rounded, headroom=headroom, kv_cache=0)

    @classmethod
    def nothing_but(cls, **known: int) -> "MemoryMib":
        """The parts that are known, 0 for the others."""
        return cls(**dict.fromkeys(cls.model_fields, 0) | known)


class Capacity(_Frozen):
    """`concurrent_images` pictures of the largest size fit into the KV cache at once. `encoder_tokens` is what one step can
    send through the vision encoder, and what the encoder cache holds."""

    kv_tokens: int
    max_model_len: int
    max_num_seqs: int
    image_tokens: int
    concurrent_images: int
    encoder_tokens: int


class PlannedLimits(Limits):
    """The profile's limits as planned. A conversation holds `max_video_frames` frames of `max_video_frame_pixels`, sent as
    pictures; 0 where video is off."""

    max_video_frames: int = 0
    max_video_frame_pixels: int = 0


class PlannedAdapters(_Frozen):
    """LoRA adapters, by the names that requests give; their slots are part of the plan's `buffers`."""

    names: tuple[str, ...]
    max_lora_rank: int
    slots_mib: int


class PlannedSpeculation(_Frozen):
    """`method` drafts `tokens` tokens a step, with an EAGLE3 `head` where that is the method. It takes `mib` of the parts, of
    which `weights_mib` are the head's weights, and `kv_bytes_per_token` of the KV cache."""

    method: str
    tokens: int
    head: str | None
    mib: int
    weights_mib: int
    kv_bytes_per_token: int


class Expected(_Frozen):
    decode_tokens_per_s: float | None
    source: str


class Plan(_Frozen):
    """What `onecard plan --json` prints. `given_up` says in words what became smaller than wished, `alternatives` what would
    fit where this does not. `expandable_segments` is torch's setting of its allocator, made once the model is loaded. Each of
    `servers` servers has this plan; where several cards share one, the memory is that of each card."""

    profile: str
    model: str
    precision: str
    fits: bool
    reason: str | None
    alternatives: tuple[str, ...] = ()
    predicted: bool = True
    given_up: tuple[str, ...] = ()
    gpu: PlannedGpu
    servers: int = 1
    memory_mib: MemoryMib
    expandable_segments: bool = False
    engine_args: dict[str, Any]
    capacity: Capacity
    limits: PlannedLimits
    adapters: PlannedAdapters | None = None
    speculation: PlannedSpeculation | None = None
    expected: Expected

    @property
    def tensor_parallel_size(self) -> int:
        """How many cards share one server."""
        size: int = self.engine_args.get("tensor_parallel_size", 1)
        return size

    @property
    def compilation(self) -> dict[str, Any]:
        """vLLM's `compilation_config`; empty where the plan leaves it to vLLM."""
        found: dict[str, Any] = self.engine_args.get("compilation_config", {})
        return found

    @property
    def model_names(self) -> list[str]:
        """What requests may name: the model's own names, then those of its adapters."""
        return [*self.engine_args["served_model_name"], *(self.adapters.names if self.adapters else ())]
