"""The plan: a pure function of (profile, model, checkpoint, hardware, the user's own engine arguments).

It decides the card's memory, vLLM's arguments and the limits that the guard enforces. It starts nothing and reads
nothing. The parts but weights and KV cache are the profile's own figures.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from serving import memory
from serving.checkpoint import Checkpoint
from serving.engine_args import count, names
from serving.errors import HardwareError
from serving.hardware import Gpu, Hardware
from serving.memory import MIB
from serving.profile import GpuFacts, Limits, Model, PartsMib, Profile

# Bandwidth is never reached in full; this share of the bound is a convention until it is measured on the card.
_DECODE_EFFICIENCY = 0.7
# What the plan counts with, and the user may have given.
_COUNTS = frozenset({"max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PlannedGpu(_Frozen):
    name: str
    total_mib: int
    usable_mib: int


class MemoryMib(PartsMib):
    """The parts of the memory in MiB. They sum to `total`."""

    weights: int
    kv_cache: int
    total: int


class Capacity(_Frozen):
    kv_tokens: int
    max_model_len: int
    max_num_seqs: int
    image_tokens: int
    concurrent_images: int


class Expected(_Frozen):
    decode_tokens_per_s: float | None
    source: str


class Plan(_Frozen):
    """What `onecard plan --json` prints."""

    profile: str
    model: str
    fits: bool
    reason: str | None
    gpu: PlannedGpu
    memory_mib: MemoryMib
    engine_args: dict[str, Any]
    capacity: Capacity
    limits: Limits
    expected: Expected


def make_plan(
    *,
    profile_name: str,
    profile: Profile,
    model_name: str,
    model: Model,
    checkpoint: Checkpoint,
    hardware: Hardware,
    gpu_memory_mib: int | None = None,
    user_args: dict[str, Any] | None = None,
) -> Plan:
    """Plans. `user_args` are vLLM's arguments that the user gave; they win over the profile's and are planned with.

    Raises UsageError for one of them that should be a number above 0 and is not. Whether this machine has what is
    planned is `check_hardware`'s to say: a plan can be made anywhere.
    """
    own = {**profile.engine_args.model_dump(), "max_model_len": _context(profile, checkpoint), **(user_args or {})}
    own |= {name: count(name, own[name]) for name in _COUNTS.intersection(own)}
    if "served_model_name" in own:
        own["served_model_name"] = names(own["served_model_name"])
    limits = profile.limits.model_copy(
        update={"max_image_pixels": min(profile.limits.max_image_pixels, checkpoint.max_pixels)}
    )
    gpu = _planned_gpu(profile, hardware, gpu_memory_mib)
    weights = -(-memory.weight_bytes(checkpoint) // MIB)
    parts = profile.memory_mib
    others = sum(getattr(parts, name) for name in PartsMib.model_fields)
    kv_mib = max(0, gpu.usable_mib - weights - others)
    if profile.kv_cache_mib is not None:
        kv_mib = min(kv_mib, profile.kv_cache_mib)
    if "kv_cache_memory_bytes" in own:
        kv_mib = own["kv_cache_memory_bytes"] // MIB
    kv_tokens = kv_mib * MIB // memory.kv_bytes_per_token(checkpoint)
    image_tokens = limits.max_image_pixels // memory.pixels_per_token(checkpoint)
    total = weights + others + kv_mib
    reason = _why_not(gpu, weights, others, kv_mib, kv_tokens, own)
    return Plan(
        profile=profile_name,
        model=model_name,
        fits=reason is None,
        reason=reason,
        gpu=gpu,
        memory_mib=MemoryMib(**parts.model_dump(), weights=weights, kv_cache=kv_mib, total=total),
        engine_args=_engine_args(profile, model, checkpoint, limits, hardware, kv_mib, total) | own,
        capacity=Capacity(
            kv_tokens=kv_tokens,
            max_model_len=own["max_model_len"],
            max_num_seqs=own["max_num_seqs"],
            image_tokens=image_tokens,
            concurrent_images=kv_tokens // max(1, image_tokens),
        ),
        limits=limits,
        expected=_expected(profile.gpu, memory.text_weight_bytes(checkpoint)),
    )


def auto_profile(profiles: dict[str, Profile], hardware: Hardware) -> str:
    """The profile of the first GPU: the one that names it with its memory, else the largest that its memory holds;
    `cpu` where there is no GPU."""
    if not hardware.gpus:
        return "cpu"
    card = hardware.gpus[0]
    by_size = sorted(
        ((name, p.gpu) for name, p in profiles.items() if p.gpu is not None), key=lambda each: each[1].memory_mib
    )
    for name, facts in by_size:
        if card.name in facts.names and abs(card.total_mib - facts.memory_mib) < facts.memory_mib // 10:
            return name
    fitting = [name for name, facts in by_size if facts.memory_mib <= card.total_mib * 1.05]
    if not fitting:
        raise HardwareError(
            f"{card.name} has {card.total_mib:,} MiB, less than the smallest profile ({by_size[0][0]}) needs. "
            "PROFILE=cpu serves the built-in demo model without it."
        )
    return fitting[-1]


def _planned_gpu(profile: Profile, hardware: Hardware, gpu_memory_mib: int | None) -> PlannedGpu:
    if profile.gpu is None:
        total = gpu_memory_mib or hardware.ram_mib
        return PlannedGpu(name="CPU", total_mib=total, usable_mib=total)
    total = gpu_memory_mib or profile.gpu.memory_mib
    return PlannedGpu(
        name=hardware.gpus[0].name if hardware.gpus else profile.gpu.names[0],
        total_mib=total,
        usable_mib=max(0, total - profile.gpu.reserved_mib),
    )


def check_hardware(profile_name: str, profile: Profile, hardware: Hardware, plan: Plan) -> None:
    """Whether what is planned can start on what is here. Raises HardwareError with the way out."""
    if profile.gpu is None:
        return
    if not hardware.gpus:
        raise HardwareError(
            f"The profile `{profile_name}` needs an NVIDIA GPU, and {hardware.nvml_problem}. "
            "PROFILE=cpu (or `onecard serve --profile cpu`) serves the built-in demo model without one; "
            "`onecard doctor` says what is missing."
        )
    card: Gpu = hardware.gpus[0]
    if plan.memory_mib.total > card.free_mib:
        smaller = card.free_mib - 256
        needed = plan.memory_mib.total - plan.memory_mib.kv_cache + profile.gpu.reserved_mib
        raise HardwareError(
            f"The plan takes {plan.memory_mib.total:,} MiB, but {card.name} has {card.free_mib:,} of {card.total_mib:,} MiB "
            f"free: other programs hold {card.used_mib:,} MiB. Close them (nvidia-smi lists them)"
            + (f", or plan for less with --gpu-memory-mib {smaller}." if smaller > needed else ".")
        )


def _why_not(
    gpu: PlannedGpu, weights: int, others: int, kv_mib: int, kv_tokens: int, own: dict[str, Any]
) -> str | None:
    if weights + others + kv_mib > gpu.usable_mib or kv_mib == 0:
        return (
            f"the weights take {weights:,} MiB and everything else but the KV cache {others:,} MiB, "
            f"and {gpu.name} has {gpu.usable_mib:,} MiB to use: choose a smaller model or precision"
        )
    if kv_tokens < own["max_model_len"]:
        shorter = kv_tokens // 1024 * 1024
        way_out = f"choose --max-model-len {shorter} or less" if shorter else "choose a smaller model or precision"
        return (
            f"{kv_mib:,} MiB are left for the KV cache, which is {kv_tokens:,} tokens, fewer than one conversation of "
            f"max_model_len={own['max_model_len']}: {way_out}"
        )
    return None


def _engine_args(
    profile: Profile,
    model: Model,
    checkpoint: Checkpoint,
    limits: Limits,
    hardware: Hardware,
    kv_mib: int,
    total_mib: int,
) -> dict[str, Any]:
    """The arguments that the plan decides, by vLLM's names."""
    # Both edges: the only lever that caps the resize, the profile and the encoder's budget together.
    size = {
        "shortest_edge": min(checkpoint.min_pixels, limits.max_image_pixels),
        "longest_edge": limits.max_image_pixels,
    }
    args: dict[str, Any] = {
        "served_model_name": list(model.served_model_name),
        "limit_mm_per_prompt": {"image": limits.max_images_per_request, "video": 0},
        "mm_processor_kwargs": {"size": size},
        "override_generation_config": model.sampling.model_dump(exclude_none=True)
        | {"max_new_tokens": model.largest_max_tokens},
        "api_server_count": 1,
        # By bytes: a fraction would be one of whatever memory is present.
        "kv_cache_memory_bytes": kv_mib * MIB,
    }
    if model.tool_call_parser:
        args |= {"enable_auto_tool_choice": True, "tool_call_parser": model.tool_call_parser}
    if model.reasoning_parser:
        args["reasoning_parser"] = model.reasoning_parser
    if profile.device == "cuda":
        args["performance_mode"] = profile.policy
        if hardware.gpus:
            # A fraction of the card that is present, whatever card is planned for.
            args["gpu_memory_utilization"] = round(min(0.99, total_mib / hardware.gpus[0].total_mib), 4)
    return args


def _context(profile: Profile, checkpoint: Checkpoint) -> int:
    """The profile's context, or the model's own where that is shorter."""
    return min(profile.engine_args.max_model_len, int(checkpoint.text_config.get("max_position_embeddings", 2**62)))


def _expected(facts: GpuFacts | None, bytes_per_token: int) -> Expected:
    if facts is None:
        return Expected(decode_tokens_per_s=None, source="no bandwidth bound is known for this CPU")
    bound = facts.bandwidth_gb_s * 1e9 / max(1, bytes_per_token)
    return Expected(
        decode_tokens_per_s=round(bound * _DECODE_EFFICIENCY, 1),
        source=f"derived, not measured: {facts.bandwidth_gb_s:g} GB/s over {bytes_per_token / 1e6:,.0f} MB of language model "
        f"read for each token, times {_DECODE_EFFICIENCY} by convention",
    )
