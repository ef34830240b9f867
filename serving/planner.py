"""The plan is made: a pure function of (profile, model, checkpoint, hardware, the user's own engine arguments).

It decides the card's memory, vLLM's arguments and the limits that the guard enforces. It starts nothing and reads
nothing. How large each part is, `memory.py` knows; what a policy wants and gives up, `policy.py`.
"""

from dataclasses import dataclass, replace
from typing import Any

from serving import memory
from serving.architecture import Shape, read_shape
from serving.asked import Asked, read_asked
from serving.checkpoint import Checkpoint
from serving.errors import UsageError
from serving.hardware import Hardware
from serving.memory import MEASURED, MIB, Constants, Load, Parts
from serving.plan import Capacity, Expected, MemoryMib, Plan, PlannedGpu
from serving.policy import Settings, concessions, cudagraph_sizes, wished
from serving.profile import GpuFacts, Limits, Model, Profile
from serving.weights import Weights, measure_weights

# Bandwidth is never reached in full; this share of the bound is a convention until it is measured on the card.
_DECODE_EFFICIENCY = 0.7
# What the prediction may be wrong by, and what the desktop may take meanwhile.
_HEADROOM_MIB = 200
# A conversation of fewer tokens than this is of no use with pictures.
_SHORTEST_CONTEXT = 2048
# Of an architecture whose parts are not known: the share that is kept free for them.
_UNKNOWN_SHARE = 0.3
# On a CPU: Python, torch and vLLM in two processes; no graphs; what the allocator keeps.
_CPU = Constants(context=1536 * MIB, workspace=0, graph_of_layer=0, fragments=256 * MIB, fragments_share=0.5)


@dataclass(frozen=True)
class Subject:
    """What is planned: everything that a plan is a function of, but for the user's arguments."""

    profile_name: str
    profile: Profile
    model_name: str
    model: Model
    checkpoint: Checkpoint
    hardware: Hardware
    gpu_memory_mib: int | None = None
    constants: Constants = MEASURED

    def plan(self, user_args: dict[str, Any] | None = None) -> Plan:
        """Plans. `user_args` are vLLM's arguments that the user gave; they win over the profile's and are planned with.

        Raises UsageError for one of them that makes no sense or would break the plan, CheckpointError for a checkpoint
        whose size cannot be told. Whether this machine has what is planned is `present.check_hardware`'s to say.
        """
        asked = read_asked(self.profile.engine_args | (user_args or {}))
        config = self.checkpoint.config
        shape = read_shape(self.checkpoint.architecture, config)
        weights = measure_weights(shape, config, self.checkpoint.tensors)
        gpu = self._gpu(asked)
        if shape is None:
            return self._unpredicted(asked, weights, gpu)
        _check_context(asked, shape, self.checkpoint)
        return self._choose(asked, shape, weights, gpu)

    def _gpu(self, asked: Asked) -> PlannedGpu:
        facts = self.profile.gpu
        if facts is None:
            total = self.gpu_memory_mib or self.hardware.ram_mib
            return PlannedGpu(name="CPU", total_mib=total, usable_mib=total)
        card = self.hardware.gpus[0] if self.hardware.gpus else None
        total = self.gpu_memory_mib or facts.memory_mib
        held = facts.reserved_mib
        if card is not None and self.gpu_memory_mib is None and is_card(facts, card.total_mib):
            # The card itself: what other programs hold now counts, and never less than a desktop is likely to take.
            total, held = card.total_mib, max(card.used_mib, facts.reserved_mib)
        usable = max(0, total - held)
        fraction = asked.args.get("gpu_memory_utilization")
        if isinstance(fraction, float | int) and not isinstance(fraction, bool):
            usable = min(usable, int(total * fraction))
        return PlannedGpu(name=card.name if card else facts.names[0], total_mib=total, usable_mib=usable)

    def _choose(self, asked: Asked, shape: Shape, weights: Weights, gpu: PlannedGpu) -> Plan:
        """The first of the policy's concessions with which a conversation of the wished length fits; else the last of
        them, with a shorter one."""
        limits, text = self._limits(asked), shape.text
        context = asked.number("max_model_len") or min(self.profile.context, text.max_positions)
        wish = wished(self.profile.policy, limits.max_image_pixels)
        given = {name: asked.number(name) for name in ("max_num_seqs", "max_num_batched_tokens")}
        wish = replace(wish, **{name: value for name, value in given.items() if value})
        fixed = frozenset(name for name, value in given.items() if value)
        if asked.max_image_pixels:
            fixed |= {"max_image_pixels"}
        settings, parts, kv_mib = wish, None, 0
        for settings in concessions(wish, fixed):
            parts = memory.parts(shape, weights.total, self._load(asked, shape, settings), self._constants())
            kv_mib = self._kv_mib(asked, gpu, parts)
            if kv_mib * MIB >= self._kv_bytes(asked, shape, context, settings):
                break
        if parts is None:
            raise UsageError(f"the policy {self.profile.policy!r} has no settings")
        state = settings.max_num_seqs * memory.state_bytes_per_sequence(text)
        kv_tokens = max(0, kv_mib * MIB - state) // self._token_bytes(asked, shape)
        given_up = _given_up(wish, settings)
        if asked.number("max_model_len") is None and _SHORTEST_CONTEXT <= kv_tokens < context:
            shorter = kv_tokens // 1024 * 1024
            given_up = (*given_up, f"conversations of {shorter:,} instead of {context:,} tokens")
            context = shorter
        memory_mib = _in_mib(parts, kv_mib)
        reason = _why_not(gpu, memory_mib, kv_tokens, context, weights)
        limits = limits.model_copy(update={"max_image_pixels": settings.max_image_pixels})
        load = self._load(asked, shape, settings)
        return Plan(
            profile=self.profile_name,
            model=self.model_name,
            precision=weights.precision,
            fits=reason is None,
            reason=reason,
            given_up=given_up,
            gpu=gpu,
            memory_mib=memory_mib,
            engine_args=self._engine_args(asked, limits, settings, context, memory_mib),
            capacity=Capacity(
                kv_tokens=kv_tokens,
                max_model_len=context,
                max_num_seqs=settings.max_num_seqs,
                image_tokens=load.image_tokens,
                concurrent_images=kv_tokens // max(1, load.image_tokens),
                encoder_tokens=load.encoder_tokens,
            ),
            limits=limits,
            expected=_expected(self.profile.gpu, weights.read_per_token),
        )

    def _limits(self, asked: Asked) -> Limits:
        """The profile's, or the user's, and never more than the model's processor makes of a picture."""
        limits = self.profile.limits
        images = asked.max_images_per_request
        return limits.model_copy(
            update={
                "max_image_pixels": min(asked.max_image_pixels or limits.max_image_pixels, self.checkpoint.max_pixels),
                "max_images_per_request": limits.max_images_per_request if images is None else images,
            }
        )

    def _load(self, asked: Asked, shape: Shape, settings: Settings) -> Load:
        images = self._limits(asked).max_images_per_request
        return Load(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            image_tokens=settings.max_image_pixels // shape.vision.pixels_per_token if images else 0,
            cudagraph_sizes=len(self._graphs(asked, settings)),
        )

    def _graphs(self, asked: Asked, settings: Settings) -> list[int]:
        if self.profile.device == "cpu" or asked.enforce_eager:
            return []
        given = asked.args.get("compilation_config")
        sizes = given.get("cudagraph_capture_sizes") if isinstance(given, dict) else None
        return sizes if isinstance(sizes, list) else cudagraph_sizes(settings.max_num_seqs)

    def _constants(self) -> Constants:
        return _CPU if self.profile.device == "cpu" else self.constants

    def _token_bytes(self, asked: Asked, shape: Shape) -> int:
        return memory.kv_bytes_per_token(shape.text) * asked.kv_bytes_per_value // 2

    def _kv_bytes(self, asked: Asked, shape: Shape, context: int, settings: Settings) -> int:
        """What one conversation of full length takes, beside the recurrent state of all that run."""
        state = settings.max_num_seqs * memory.state_bytes_per_sequence(shape.text)
        return context * self._token_bytes(asked, shape) + state

    def _kv_mib(self, asked: Asked, gpu: PlannedGpu, parts: Parts) -> int:
        if given := asked.number("kv_cache_memory_bytes"):
            return given // MIB
        left = max(0, gpu.usable_mib - _in_mib(parts, 0).total)
        return left if self.profile.kv_cache_mib is None else min(left, self.profile.kv_cache_mib)

    def _engine_args(
        self, asked: Asked, limits: Limits, settings: Settings, context: int, planned: MemoryMib
    ) -> dict[str, Any]:
        """vLLM's arguments by vLLM's names: the plan's choices, then what was asked for."""
        args = self._fixed_args(limits, context) | {
            "max_model_len": context,
            "max_num_seqs": settings.max_num_seqs,
            "max_num_batched_tokens": settings.max_num_batched_tokens,
            # By bytes: a fraction would be one of whatever memory is present.
            "kv_cache_memory_bytes": planned.kv_cache * MIB,
        }
        if self.profile.device == "cuda":
            # Measured beside predicted, from inside the worker.
            args["worker_extension_cls"] = "serving.worker_memory.WorkerMemory"
            if graphs := self._graphs(asked, settings):
                args["compilation_config"] = {"cudagraph_capture_sizes": graphs}
            if self.hardware.gpus:
                # What vLLM wants to find free before it loads anything, when its CUDA context is there already: a fraction
                # of the card that is present. It is only checked, since the KV cache is given in bytes.
                fraction = (planned.total - planned.headroom - planned.context) / self.hardware.gpus[0].total_mib
                args["gpu_memory_utilization"] = round(min(0.99, fraction), 4)
        merged = args.get("compilation_config", {}) | (asked.args.get("compilation_config") or {})
        return args | asked.args | ({"compilation_config": merged} if merged else {})

    def _fixed_args(self, limits: Limits, context: int) -> dict[str, Any]:
        """What does not depend on the memory."""
        # Both edges: the only lever that caps the resize, the profile and the encoder's budget together.
        size = {
            "shortest_edge": min(self.checkpoint.min_pixels, limits.max_image_pixels),
            "longest_edge": limits.max_image_pixels,
        }
        model = self.model
        args: dict[str, Any] = {
            "served_model_name": list(model.served_model_name),
            "limit_mm_per_prompt": {"image": limits.max_images_per_request, "video": 0},
            "mm_processor_kwargs": {"size": size},
            "override_generation_config": model.sampling.model_dump(exclude_none=True)
            | {"max_new_tokens": min(model.largest_max_tokens, context)},
            "api_server_count": 1,
        }
        if model.tool_call_parser:
            args |= {"enable_auto_tool_choice": True, "tool_call_parser": model.tool_call_parser}
        if model.reasoning_parser:
            args["reasoning_parser"] = model.reasoning_parser
        if self.profile.device == "cuda":
            args["performance_mode"] = self.profile.policy
        return args

    def _unpredicted(self, asked: Asked, weights: Weights, gpu: PlannedGpu) -> Plan:
        """An architecture without formulas: vLLM profiles it at start, with a wide margin left to it."""
        limits = self._limits(asked)
        settings = wished(self.profile.policy, limits.max_image_pixels)
        context = asked.number("max_model_len") or self.profile.context
        weights_mib = -(-weights.total // MIB)
        headroom = int(gpu.usable_mib * _UNKNOWN_SHARE)
        kv_mib = max(0, gpu.usable_mib - weights_mib - headroom)
        none = dict.fromkeys(MemoryMib.model_fields, 0)
        planned = MemoryMib(
            **none | {"weights": weights_mib, "headroom": headroom, "kv_cache": kv_mib},
        ).model_copy(update={"total": weights_mib + headroom + kv_mib})
        args = self._engine_args(asked, limits, settings, context, planned)
        del args["kv_cache_memory_bytes"]
        reason = None if kv_mib else f"the weights alone take {weights_mib:,} of {gpu.usable_mib:,} MiB"
        return Plan(
            profile=self.profile_name,
            model=self.model_name,
            precision=weights.precision,
            fits=reason is None,
            reason=reason,
            predicted=False,
            gpu=gpu,
            memory_mib=planned,
            engine_args=args,
            capacity=Capacity(
                kv_tokens=0,
                max_model_len=context,
                max_num_seqs=settings.max_num_seqs,
                image_tokens=0,
                concurrent_images=0,
                encoder_tokens=0,
            ),
            limits=limits,
            expected=_expected(self.profile.gpu, weights.read_per_token),
        )


def is_card(facts: GpuFacts, total_mib: int) -> bool:
    """Whether a card of that much memory can be the one described; drivers keep a little of it for themselves."""
    return abs(total_mib - facts.memory_mib) <= facts.memory_mib // 20


def _check_context(asked: Asked, shape: Shape, checkpoint: Checkpoint) -> None:
    """Raises UsageError for a context beyond the model's, or one that the largest picture does not fit into."""
    context = asked.number("max_model_len")
    longest = shape.text.max_positions
    if context is not None and context > longest:
        raise UsageError(f"--max-model-len {context:,} is more than the {longest:,} tokens that the model knows.")
    if context is None or asked.max_image_pixels is None:
        return
    tokens = min(asked.max_image_pixels, checkpoint.max_pixels) // shape.vision.pixels_per_token
    if tokens >= context:
        raise UsageError(
            f"A picture of {asked.max_image_pixels:,} pixels is {tokens:,} tokens, and a conversation has {context:,}: "
            "choose smaller pictures or a larger --max-model-len."
        )


def _in_mib(parts: Parts, kv_mib: int) -> MemoryMib:
    """Each part rounded up, so that they sum to the total."""
    rounded = {name: -(-value // MIB) for name, value in vars(parts).items()}
    rounded |= {"kv_cache": kv_mib, "headroom": _HEADROOM_MIB}
    return MemoryMib(**rounded, total=sum(rounded.values()))


def _given_up(wish: Settings, settings: Settings) -> tuple[str, ...]:
    words = {
        "max_num_batched_tokens": "steps of {1:,} instead of {0:,} tokens (long prompts take more of them)",
        "max_num_seqs": "{1} instead of {0} requests at once",
        "max_image_pixels": "pictures of {1:,} instead of {0:,} pixels",
    }
    pairs = {name: (getattr(wish, name), getattr(settings, name)) for name in words}
    return tuple(words[name].format(*pair) for name, pair in pairs.items() if pair[0] != pair[1])


def _why_not(gpu: PlannedGpu, planned: MemoryMib, kv_tokens: int, context: int, weights: Weights) -> str | None:
    others = planned.total - planned.kv_cache - planned.weights
    if planned.total > gpu.usable_mib or planned.kv_cache == 0:
        return (
            f"the weights take {planned.weights:,} MiB ({weights.precision}) and everything else but the KV cache "
            f"{others:,} MiB, and {gpu.name} has {gpu.usable_mib:,} MiB to use"
        )
    if kv_tokens < context:
        needed = -(-planned.kv_cache * context // max(1, kv_tokens))
        return (
            f"a conversation of {context:,} tokens needs {needed:,} MiB of KV cache, and {planned.kv_cache:,} MiB are left "
            f"for it, which is {kv_tokens:,} tokens"
        )
    return None


def _expected(facts: GpuFacts | None, bytes_per_token: int) -> Expected:
    if facts is None:
        return Expected(decode_tokens_per_s=None, source="no bandwidth bound is known for this CPU")
    bound = facts.bandwidth_gb_s * 1e9 / max(1, bytes_per_token)
    return Expected(
        decode_tokens_per_s=round(bound * _DECODE_EFFICIENCY, 1),
        source=f"derived, not measured: {facts.bandwidth_gb_s:g} GB/s over {bytes_per_token / 1e6:,.0f} MB of language model "
        f"read for each token, times {_DECODE_EFFICIENCY} by convention",
    )
