"""What the engine arguments given by the user or the profile mean for the plan. Reads and checks them; what follows from them
is decided in `planner.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import UsageError
from serving.planning.asked_speculation import AskedSpeculation, read_speculation
from serving.planning.engine_args import check_own, count, names

_COUNTS = frozenset(
    {"max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "max_loras", "max_lora_rank"}
    | {"tensor_parallel_size", "block_size"}
)
# What would take memory that has no formula, and what is planned instead. As they are by default they change nothing.
_UNPLANNED = {
    "enable_tower_connector_lora": "adapters' slots are planned for the language model alone",
    "specialize_active_lora": "CUDA graphs are planned with adapters and without, and not for each number of them",
    "cpu_offload_params": "weights are planned as --cpu-offload-gb takes them by itself",
    "offload_group_size": "layers that are fetched ahead are not planned, and --cpu-offload-gb is",
    "kv_cache_dtype_skip_layers": "the KV cache is planned with all layers at one precision",
}
# What wins over `size` (vLLM's `Qwen2VLProcessingInfo._get_vision_size`).
_PAST_SIZE = ("min_pixels", "max_pixels", "images_kwargs")
_OBJECTS = ("attention_config", "compilation_config", "hf_overrides", "limit_mm_per_prompt", "quantization_config")
_KV_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
# Larger numbers are surely typing errors, and would fail only much later.
_LARGEST = {
    "max_model_len": 10**7,
    "max_num_seqs": 4096,
    "max_num_batched_tokens": 10**6,
    "kv_cache_memory_bytes": 2**50,
    "max_loras": 1000,
    "max_lora_rank": 512,
    "tensor_parallel_size": 64,
    "block_size": 2**16,
}
_BLOCK_SIZE = 16  # vLLM's own (`CacheConfig.DEFAULT_BLOCK_SIZE`)


@dataclass(frozen=True)
class Asked:
    """`args` by vLLM's names, numbers as numbers; and what they say about pictures, precision, graphs and drafts, None where
    they say nothing."""

    args: dict[str, Any]
    gpu_memory_utilization: float | None
    max_image_pixels: int | None
    max_images_per_request: int | None
    kv_bytes_per_value: int
    enforce_eager: bool
    cpu_offload_bytes: int
    speculation: AskedSpeculation | None

    def number(self, name: str) -> int | None:
        value = self.args.get(name)
        return value if isinstance(value, int) else None

    def object(self, name: str) -> dict[str, Any]:
        """An argument that is a JSON object; empty if it was not given."""
        given = self.args.get(name)
        return given if isinstance(given, dict) else {}

    @property
    def block_size(self) -> int:
        """Tokens in a block of the KV cache."""
        return self.number("block_size") or _BLOCK_SIZE

    @property
    def attention_backend(self) -> str | None:
        """What computes the attention, where it was said."""
        told = self.args.get("attention_backend") or self.object("attention_config").get("backend")
        return str(told) if told else None

    @property
    def compilation(self) -> dict[str, Any]:
        """vLLM's `compilation_config`; empty if it was not given."""
        return self.object("compilation_config")


def read_asked(args: dict[str, Any]) -> Asked:
    """Raises UsageError for a value that makes no sense and for an argument that would break the plan."""
    args = dict(args)
    for name in args:
        check_own(name)
    for name in _COUNTS.intersection(args):
        args[name] = count(name, args[name])
        if args[name] > _LARGEST[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} {args[name]:,} is far beyond what any card holds. Was it meant?"
            )
    if args.get("block_size", _BLOCK_SIZE) % _BLOCK_SIZE:
        raise UsageError(f"--block-size {args['block_size']}: vLLM's attention takes multiples of {_BLOCK_SIZE}.")
    if "served_model_name" in args:
        args["served_model_name"] = names(args["served_model_name"])
    for name, instead in _UNPLANNED.items():
        if args.get(name):
            raise UsageError(f"--{name.replace('_', '-')}: {instead}. Leave it out.")
    if args.get("mm_encoder_tp_mode", "weights") != "weights":
        raise UsageError(
            f"--mm-encoder-tp-mode {args['mm_encoder_tp_mode']}: each card is planned with its part of the vision encoder. "
            "Leave it out."
        )
    for name in (
        "pipeline_parallel_size",
        "data_parallel_size",
        "prefill_context_parallel_size",
        "decode_context_parallel_size",
    ):
        if args.get(name, 1) != 1:
            raise UsageError(
                f"--{name.replace('_', '-')} {args[name]}: onecard has a server for each card instead (--cards), or several "
                "cards for one server (-- --tensor-parallel-size)."
            )
    if args.get("quantization") in ("awq", "gptq"):
        raise UsageError(
            f"--quantization {args['quantization']} quantizes nothing. Leave it out: vLLM sees from the checkpoint how it is "
            "quantized, and ends where an argument says otherwise."
        )
    if str(args.get("dtype")) in ("float32", "float"):
        raise UsageError(f"--dtype {args['dtype']}: 16 bits are planned for weights and activations. Leave it out.")
    if drafted := _object("speculative_config", args.get("speculative_config") or {}):
        args["speculative_config"] = drafted
    for name in args.keys() & _OBJECTS:
        args[name] = _object(name, args[name])
    _check_graphs(args.get("compilation_config", {}))
    kv_dtype = str(args.get("kv_cache_dtype", "auto"))
    if kv_dtype not in _KV_BYTES:
        raise UsageError(f"--kv-cache-dtype {kv_dtype}: the plan knows {', '.join(_KV_BYTES)}.")
    return Asked(
        args=args,
        gpu_memory_utilization=_fraction(args.get("gpu_memory_utilization")),
        max_image_pixels=_pixels(args["mm_processor_kwargs"]) if "mm_processor_kwargs" in args else None,
        max_images_per_request=_images(args.get("limit_mm_per_prompt", {})),
        kv_bytes_per_value=_KV_BYTES[kv_dtype],
        enforce_eager=args.get("enforce_eager") is True,
        cpu_offload_bytes=_offloaded(args.get("cpu_offload_gb", 0)),
        speculation=read_speculation(drafted) if drafted else None,
    )


def _check_graphs(compilation: Mapping[str, Any]) -> None:
    """Checks the sizes of CUDA graphs, whose memory the plan counts."""
    if "max_cudagraph_capture_size" in compilation:
        check_own("max_cudagraph_capture_size")  # vLLM does not start with another bound than the planned sizes have
    for name in {"cudagraph_capture_sizes", "encoder_cudagraph_token_budgets"}.intersection(compilation):
        given = compilation[name]
        if not isinstance(given, list) or not given or not all(type(size) is int and size > 0 for size in given):
            raise UsageError(
                f"--compilation-config: `{name}` is {given!r}, and the plan needs a list of whole numbers above 0."
            )


def _fraction(given: Any) -> float | None:
    if given is None:
        return None
    if not isinstance(given, float | int) or isinstance(given, bool) or not 0 < given <= 1:
        raise UsageError(f"--gpu-memory-utilization is {given!r}, and it is a share of the card's memory, as in 0.9.")
    return float(given)


def _offloaded(given: Any) -> int:
    if not isinstance(given, float | int) or isinstance(given, bool) or not 0 <= given <= 1024:
        raise UsageError(
            f"--cpu-offload-gb is {given!r}, and it is how many GiB of weights stay in the machine's memory."
        )
    return int(given * 2**30)


def _pixels(given: Any) -> int:
    """`size.longest_edge` of `mm_processor_kwargs`; both edges are needed, since newer processors ignore one alone."""
    given = _object("mm_processor_kwargs", given)
    size = given.get("size")
    if past := [name for name in _PAST_SIZE if given.get(name) is not None]:
        raise UsageError(
            f"--mm-processor-kwargs: `{past[0]}` would win over `size`, with which pictures are planned. Say it with `size`: "
            '\'{"size": {"shortest_edge": 65536, "longest_edge": 1048576}}\'.'
        )
    if size is None:
        raise UsageError(
            "--mm-processor-kwargs without `size` would let pictures grow to the model's own limit, for which nothing is "
            'planned. Give both edges: \'{"size": {"shortest_edge": 65536, "longest_edge": 1048576}}\'.'
        )
    edges = [size.get(key) for key in ("shortest_edge", "longest_edge")] if isinstance(size, dict) else []
    pixels = [edge for edge in edges if isinstance(edge, int) and edge >= 1024]
    if len(pixels) != 2 or pixels[0] > pixels[1]:
        raise UsageError(
            "--mm-processor-kwargs: `size` needs `shortest_edge` and `longest_edge`, in pixels of the whole picture, 1,024 "
            f"at least; it is {size!r}."
        )
    return pixels[1]


def _images(given: dict[str, Any]) -> int | None:
    if given.get("video") or given.get("audio"):
        raise UsageError("--limit-mm-per-prompt: nothing is planned for video and audio, only for `image`.")
    if "image" not in given:
        return None
    images = given["image"]
    images = images.get("count", 1) if isinstance(images, dict) else images
    if not isinstance(images, int) or isinstance(images, bool) or not 0 <= images <= 1000:
        raise UsageError(f"--limit-mm-per-prompt: `image` is {images!r}, and the plan needs a number from 0 to 1,000.")
    return images


def _object(name: str, given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if not isinstance(given, dict):
        raise UsageError(f"--{name.replace('_', '-')} needs a JSON object in quotes.")
    return given
