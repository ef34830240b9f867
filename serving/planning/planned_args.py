"""The engine arguments that follow from the plan's choices, by vLLM's names. The choices are made in `planner.py`; how the
arguments become a command line is in `engine_args.py`.
"""

from dataclasses import dataclass
from typing import Any

from serving.models.checkpoint import Checkpoint
from serving.planning.adapters import Adapter
from serving.planning.asked import Asked
from serving.planning.memory import MIB, Slots
from serving.planning.plan import MemoryMib
from serving.planning.policy import STREAM_INTERVALS, Settings
from serving.planning.profile import Limits, Model, Profile

# The most pictures in one run of an encoder graph; vLLM allows at most as many as the smallest budget has tokens.
_PICTURES_OF_A_GRAPH = 16

# JSON objects that are merged: what was asked for, completed by the plan's own choice of the rest.
_COMPLETED = ("compilation_config", "limit_mm_per_prompt")
# Arguments whose planned value replaces the user's, which it already takes into account.
PLANNED_WITH = frozenset({*_COMPLETED, "gpu_memory_utilization", "speculative_config"})


@dataclass(frozen=True)
class Choices:
    """What was decided. `cudagraph_sizes` are the batch sizes that get a CUDA graph (none on a CPU), `encoder_budgets` the
    numbers of image tokens that do. If the parts of the memory could not be `predicted`, vLLM sizes its KV cache itself.
    `present_mib` is the memory of the GPU in this machine, None where there is none; `head` is where the drafting EAGLE3 head
    lies."""

    settings: Settings
    limits: Limits
    context: int
    cudagraph_sizes: list[int]
    encoder_budgets: tuple[int, ...]
    memory: MemoryMib
    predicted: bool
    lora: Slots | None
    adapters: tuple[Adapter, ...]
    present_mib: int | None
    head: str | None = None
    tensor_parallel_size: int = 1


def planned_args(
    profile: Profile, model: Model, checkpoint: Checkpoint, asked: Asked, chosen: Choices
) -> dict[str, Any]:
    """The plan's choices, overridden by what was asked for."""
    args = _of_the_model(model, chosen.context) | _of_pictures(checkpoint, chosen.limits)
    args |= {
        "max_model_len": chosen.context,
        "max_num_seqs": chosen.settings.max_num_seqs,
        "max_num_batched_tokens": chosen.settings.max_num_batched_tokens,
        "api_server_count": 1,
    }
    if chosen.tensor_parallel_size > 1:
        args["tensor_parallel_size"] = chosen.tensor_parallel_size
    if chosen.lora:
        args |= _of_adapters(chosen.lora, chosen.adapters)
    if chosen.predicted:
        # In bytes: a fraction would be of whatever card is present.
        args["kv_cache_memory_bytes"] = chosen.memory.kv_cache * MIB
    if profile.device == "cuda":
        args |= _of_a_gpu(profile, chosen)
    # The user may have given these in part, and vLLM would choose the rest: a thousand videos, for one.
    whole = {name: args.get(name, {}) | asked.object(name) for name in _COMPLETED}
    every = args | asked.args | {name: value for name, value in whole.items() if value}
    if chosen.head:
        every["speculative_config"] = asked.object("speculative_config") | {"model": chosen.head}
    if chosen.predicted and "gpu_memory_utilization" in args:
        # The plan stays within the share that was asked for; given the whole of it, vLLM would insist that it is free.
        every["gpu_memory_utilization"] = args["gpu_memory_utilization"]
    return every


def _of_the_model(model: Model, context: int) -> dict[str, Any]:
    sampling = model.sampling.model_dump(exclude_none=True)
    args: dict[str, Any] = {
        "served_model_name": list(model.served_model_name),
        "override_generation_config": sampling | {"max_new_tokens": min(model.largest_max_tokens, context)},
    }
    if model.tool_call_parser:
        args |= {"enable_auto_tool_choice": True, "tool_call_parser": model.tool_call_parser}
        # Else the model is shown tools that it may not call, and writes the call into its answer as text.
        args["exclude_tools_when_tool_choice_none"] = True
    if model.reasoning_parser:
        args["reasoning_parser"] = model.reasoning_parser
    return args


def _of_pictures(checkpoint: Checkpoint, limits: Limits) -> dict[str, Any]:
    # Both edges: only together do they cap the resize, vLLM's profiling and the encoder's budget.
    size = {
        "shortest_edge": min(checkpoint.min_pixels, limits.max_image_pixels),
        "longest_edge": limits.max_image_pixels,
    }
    return {
        "limit_mm_per_prompt": {"image": limits.max_images_per_request, "video": 0},
        "mm_processor_kwargs": {"size": size},
    }


def _of_adapters(slots: Slots, adapters: tuple[Adapter, ...]) -> dict[str, Any]:
    args: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": slots.max_loras,
        "max_lora_rank": slots.max_lora_rank,
    }
    if slots.modules is not None:
        # Without it, vLLM makes slots for every layer, embeddings included.
        args["lora_target_modules"] = sorted(slots.modules)
    if adapters:
        args["lora_modules"] = [f"{adapter.name}={adapter.folder}" for adapter in adapters]
    return args


def _of_a_gpu(profile: Profile, chosen: Choices) -> dict[str, Any]:
    args: dict[str, Any] = {
        "performance_mode": profile.policy,
        # Measures in the worker what was predicted.
        "worker_extension_cls": "serving.engine.worker_memory.WorkerMemory",
    }
    if (interval := STREAM_INTERVALS[profile.policy]) > 1:
        args["stream_interval"] = interval
    if chosen.cudagraph_sizes:
        args["compilation_config"] = {"cudagraph_capture_sizes": chosen.cudagraph_sizes}
    if chosen.encoder_budgets:
        args.setdefault("compilation_config", {}).update(
            cudagraph_mm_encoder=True,
            encoder_cudagraph_token_budgets=list(chosen.encoder_budgets),
            encoder_cudagraph_max_vision_items_per_batch=min(_PICTURES_OF_A_GRAPH, *chosen.encoder_budgets),
        )
    if chosen.present_mib:
        # The fraction of this card that vLLM wants to find free before it loads anything, but with its CUDA context already
        # there. It is only checked: the KV cache is given in bytes.
        needed = chosen.memory.total - chosen.memory.headroom - chosen.memory.context
        args["gpu_memory_utilization"] = round(min(0.99, needed / chosen.present_mib), 4)
    return args
