"""Makes the plan: a pure function of (profile, model, checkpoint, hardware, the user's own engine arguments).

It divides up the card's memory and decides vLLM's arguments and the limits that the guard enforces. It starts nothing and
reads nothing. What one choice of settings amounts to comes from `sizing.py`; what a policy wants and what it gives up, from
`policy.py`.
"""

from dataclasses import dataclass, replace
from typing import Any

from serving.errors import UsageError
from serving.machine.hardware import Gpu, Hardware
from serving.machine.onecards import among
from serving.models.architecture import QWEN3_VL, Shape, Vision, read_shape
from serving.models.checkpoint import Checkpoint
from serving.models.weights import Weights, at_loading, measure_weights
from serving.planning import memory
from serving.planning.adapters import Adapter, planned_slots
from serving.planning.asked import Asked, read_asked
from serving.planning.heads import DraftHead, check_head
from serving.planning.memory import MEASURED, MIB, Constants
from serving.planning.plan import (
    Capacity,
    MemoryMib,
    Plan,
    PlannedAdapters,
    PlannedGpu,
    PlannedLimits,
)
from serving.planning.planned_args import Choices, planned_args
from serving.planning.policy import Settings, concessions, wished
from serving.planning.present import planned_gpu
from serving.planning.profile import Model, Profile, Video
from serving.planning.sizing import Sized, Sizing, graphs_of
from serving.planning.verdict import (
    QUESTION_TOKENS,
    check_adapters,
    check_context,
    check_steps,
    check_whole,
    conceded,
    cost_of_sharing,
    exchanges,
    expected,
    pixels_within,
    reason_against,
)
from serving.planning.video import Frames

# A context shorter than this is of no use with pictures.
_SHORTEST_CONTEXT = 2048
# The share of the card that is kept free for an architecture without formulas.
_UNKNOWN_SHARE = 0.3


@dataclass(frozen=True)
class Subject:
    """Everything that a plan is a function of, except for the user's engine arguments. `own_allocator`: the user has configured
    torch's allocator, which is then left alone."""

    profile_name: str
    profile: Profile
    model_name: str
    model: Model
    checkpoint: Checkpoint
    hardware: Hardware
    gpu_memory_mib: int | None = None
    constants: Constants = MEASURED
    own_allocator: bool = False
    adapters: tuple[Adapter, ...] = ()
    head: DraftHead | None = None
    tensor_parallel_size: int = 1

    def plan(self, user_args: dict[str, Any] | None = None) -> Plan:
        """Makes the plan. `user_args` are the user's own vLLM arguments: they override the profile's, and the plan counts
        with them.

        Raises UsageError for an argument that makes no sense or would break the plan, CheckpointError for a checkpoint of
        unknown size. Whether this machine can run the plan is checked by `present.check_hardware`.
        """
        asked = read_asked(self.profile.engine_args | (user_args or {}))
        size = asked.number("tensor_parallel_size") or self.tensor_parallel_size
        if size != self.tensor_parallel_size:
            return replace(self, tensor_parallel_size=size).plan(user_args)
        overrides = asked.args.get("hf_overrides")
        if isinstance(overrides, dict) and (checkpoint := self.checkpoint.overridden(overrides)) != self.checkpoint:
            return replace(self, checkpoint=checkpoint).plan(user_args)
        weights, shape, gpu = self.weights(asked), self._shape(), self._gpu(asked)
        if shape and not self._limits(asked).max_images_per_request:
            weights = weights.blind()
        if shape and self.profile.gpu:
            weights = weights.offload(asked.cpu_offload_bytes, shape.text)
        check_head(self.head, asked.speculation, shape, self.model, size)
        if shape is None:
            return self._unpredicted(asked, weights, gpu)
        check_context(asked, shape)
        check_adapters(self.adapters, shape, self.model)
        return self._choose(asked, shape, weights, gpu)

    def weights(self, asked: Asked | None = None) -> Weights:
        """The size of the weights on one card. Raises CheckpointError where it cannot be known."""
        config, tensors = self.checkpoint.config, self.checkpoint.tensors
        method, ignored = (asked.args.get("quantization"), asked.object("quantization_config")) if asked else (None, {})
        rounded = at_loading(method, ignored.get("ignore"))
        found = measure_weights(read_shape(self.checkpoint.architecture, config), config, tensors, rounded)
        return found.share(self.tensor_parallel_size)

    def _shape(self) -> Shape | None:
        """One card's share of the model. Raises UsageError where it cannot be split over that many cards."""
        shape, size = read_shape(self.checkpoint.architecture, self.checkpoint.config), self.tensor_parallel_size
        if shape and not shape.splits(size):
            raise UsageError(
                f"--tensor-parallel-size {size}: {shape.text.heads} heads, {shape.text.kv_heads} of them for keys and values, "
                f"and {shape.vision.heads} of the vision encoder, or feed-forward networks of {shape.text.intermediate_size:,} "
                f"and {shape.vision.intermediate_size:,}, cannot be split over {size} cards."
            )
        return shape.share(size) if shape else None

    def _gpu(self, asked: Asked) -> PlannedGpu:
        if self.profile.gpu is None:
            total = self.gpu_memory_mib or self.hardware.ram_mib
            return PlannedGpu(name="CPU", total_mib=total, usable_mib=total)
        return planned_gpu(self.profile.gpu, self._card, self.gpu_memory_mib, asked.gpu_memory_utilization)

    @property
    def _card(self) -> Gpu | None:
        return self.hardware.gpus[0] if self.hardware.gpus else None

    @property
    def _capability(self) -> str | None:
        """The compute capability of the card in this machine, which may differ from the profile's; else the profile's."""
        facts = self.profile.gpu
        return (self._card.compute_capability if self._card else facts.compute_capability) if facts else None

    @property
    def _expandable_segments(self) -> bool:
        """Whether the allocator's segments can grow: not in WSL2 (pytorch#192330), nor beside the all-reduce of several cards
        (vllm#43923)."""
        return (
            self.profile.gpu is not None
            and self.tensor_parallel_size == 1
            and not self.hardware.wsl
            and not self.own_allocator
        )

    def _choose(self, asked: Asked, shape: Shape, weights: Weights, gpu: PlannedGpu) -> Plan:
        """Gives way step by step, in the policy's order, until the wished-for context fits; where even the last step leaves
        too little, the context becomes shorter."""
        context = asked.number("max_model_len") or min(self.profile.context, shape.text.max_positions)
        wished_for = self._limits(asked)
        limits = self._within(context, wished_for, asked, shape.vision)
        wish, fixed = self._wish(asked, limits, shape)
        sizing = Sizing(
            profile=self.profile,
            asked=asked,
            shape=shape,
            weights=weights,
            usable_mib=gpu.usable_mib,
            capability=self._capability,
            pictures=wished_for.max_images_per_request > 0,
            constants=self.constants,
            expandable_segments=self._expandable_segments,
            adapters=self.adapters,
            head=self.head,
            cards=self.tensor_parallel_size,
        )
        sized = sizing.of(wish)
        for settings in concessions(wish, fixed):
            if sized.kv_tokens >= context and sized.memory_mib.total <= gpu.usable_mib:
                break
            sized = sizing.of(settings)
        given_up = conceded(replace(wish, max_image_pixels=wished_for.max_image_pixels), sized.settings)
        shortest = max(_SHORTEST_CONTEXT, sized.image_tokens + QUESTION_TOKENS)
        if asked.number("max_model_len") is None and shortest <= sized.kv_tokens // 1024 * 1024 < context:
            shorter = sized.kv_tokens // 1024 * 1024
            given_up = (*given_up, f"conversations of {shorter:,} instead of {context:,} tokens")
            context = shorter
        if gpu.taken_mib:
            held = f"{gpu.taken_mib:,} MiB of the card, which other programs hold now{among(gpu.onecards)}"
            given_up = (*given_up, held)
        if self.tensor_parallel_size > 1:
            given_up = (*given_up, cost_of_sharing(shape.text, self.tensor_parallel_size))
        limits = limits.model_copy(update={"max_image_pixels": sized.settings.max_image_pixels})
        if video := self.profile.video:
            limits, context = self._with_video(video, asked, limits, shape, context, sized.kv_tokens)
            if limits.max_video_frames < video.max_frames:
                given_up = (*given_up, f"{limits.max_video_frames} instead of {video.max_frames} frames of a video")
        check_whole(asked, sized.settings, context, sized.image_tokens)
        needed_mib = -(-(sized.state_bytes + memory.kv_bytes(context, sized.token_bytes, asked.block_size)) // MIB)
        reason = reason_against(gpu, sized.memory_mib, sized.kv_tokens, context, needed_mib, weights.precision)
        return self._plan(asked, limits, context, weights, gpu, sized, reason, given_up=given_up)

    def _limits(self, asked: Asked) -> PlannedLimits:
        """The user's limits, which vLLM and the processor obey; else the profile's, within what the processor would produce."""
        limits, images = self.profile.limits, asked.max_images_per_request
        # A frame of a video is a picture.
        own = limits.max_images_per_request or int(self.profile.video is not None)
        return PlannedLimits(
            max_image_pixels=asked.max_image_pixels or min(limits.max_image_pixels, self.checkpoint.max_pixels),
            max_images_per_request=own if images is None else images,
            max_body_mib=limits.max_body_mib,
        )

    def _within(self, context: int, limits: PlannedLimits, asked: Asked, vision: Vision) -> PlannedLimits:
        """The limits with pictures small enough for a context of so many tokens. Raises UsageError where none fits, or not
        the size that the user asks for."""
        if not limits.max_images_per_request:
            return limits
        least = asked.max_image_pixels or min(limits.max_image_pixels, self.checkpoint.min_pixels)
        pixels = pixels_within(context, limits.max_image_pixels, vision, least=least)
        return limits.model_copy(update={"max_image_pixels": pixels})

    def _with_video(
        self, video: Video, asked: Asked, limits: PlannedLimits, shape: Shape, context: int, kv_tokens: int
    ) -> tuple[PlannedLimits, int]:
        """The limits with as many video frames as fit (they are sent as pictures), and a context that holds them. Video gets
        what the other choices have left: none of them gives way to it."""
        # A frame is a picture: no smaller than the processor's minimum, no larger than the largest picture.
        pixels = min(max(video.max_frame_pixels, self.checkpoint.min_pixels), limits.max_image_pixels)
        frames = Frames(pixels, shape.vision.pixels_per_token)
        if asked.number("max_model_len") is None:
            longest = min(kv_tokens // 1024 * 1024, shape.text.max_positions)
            context = max(context, min(frames.context(video.max_frames), longest))
        most = min(video.max_frames, frames.most(context))
        if asked.max_images_per_request is None:
            limits = limits.model_copy(update={"max_images_per_request": max(limits.max_images_per_request, most)})
        most = min(most, limits.max_images_per_request)
        return limits.model_copy(update={"max_video_frames": most, "max_video_frame_pixels": pixels}), context

    def _wish(self, asked: Asked, limits: PlannedLimits, shape: Shape | None) -> tuple[Settings, frozenset[str]]:
        """The settings that a card of any size would get, and the names of those that the user has fixed."""
        decided = ("max_num_seqs", "max_num_batched_tokens")
        given: dict[str, Any] = {name: value for name in decided if (value := asked.number(name))}
        # CUDA graphs of the encoder have been measured for Qwen3-VL only.
        capability = self._capability if shape and shape.architecture == QWEN3_VL else None
        wish = replace(wished(self.profile.policy, limits.max_image_pixels, capability), **given)
        check_steps(wish)
        fixed = frozenset(given) | ({"max_image_pixels"} if asked.max_image_pixels else set())
        if (graphs := asked.compilation.get("cudagraph_mm_encoder")) is not None or asked.enforce_eager:
            return replace(wish, prompt_graphs=bool(graphs) and not asked.enforce_eager), fixed | {"prompt_graphs"}
        return wish, fixed

    def _exchanges(self, shape: Shape | None) -> int:
        return exchanges(shape.text) if shape and self.tensor_parallel_size > 1 else 0

    def _unpredicted(self, asked: Asked, weights: Weights, gpu: PlannedGpu) -> Plan:
        """An architecture without formulas: vLLM profiles it at start and gets a wide margin."""
        limits = self._limits(asked)
        context = asked.number("max_model_len") or self.profile.context
        weights_mib, headroom = -(-weights.total // MIB), int(gpu.usable_mib * _UNKNOWN_SHARE)
        given, left = asked.number("kv_cache_memory_bytes"), max(0, gpu.usable_mib - weights_mib - headroom)
        planned = MemoryMib.nothing_but(
            weights=weights_mib, headroom=headroom, kv_cache=given // MIB if given else left
        )
        # How many tokens the KV cache holds, only vLLM can tell.
        reason = reason_against(gpu, planned, context, context, 0, weights.precision)
        settings = self._wish(asked, limits, None)[0]
        sized = Sized(settings, planned, graphs_of(self.profile, asked, settings))
        return self._plan(asked, limits, context, weights, gpu, sized, reason, predicted=False)

    def _plan(
        self,
        asked: Asked,
        limits: PlannedLimits,
        context: int,
        weights: Weights,
        gpu: PlannedGpu,
        sized: Sized,
        reason: str | None,
        *,
        given_up: tuple[str, ...] = (),
        predicted: bool = True,
    ) -> Plan:
        settings, slots, shape = sized.settings, planned_slots(self.adapters, asked), self._shape()
        chosen = Choices(
            settings=settings,
            limits=limits,
            context=context,
            cudagraph_sizes=sized.cudagraph_sizes,
            encoder_budgets=sized.encoder_budgets,
            memory=sized.memory_mib,
            predicted=predicted,
            lora=slots,
            adapters=self.adapters,
            present_mib=gpu.present_mib,
            head=self.head.place if self.head and sized.speculation and sized.speculation.head else None,
            tensor_parallel_size=self.tensor_parallel_size,
        )
        return Plan(
            profile=self.profile_name,
            model=self.model_name,
            precision=weights.precision,
            fits=reason is None,
            reason=reason,
            predicted=predicted,
            given_up=given_up,
            gpu=gpu,
            memory_mib=sized.memory_mib,
            expandable_segments=self._expandable_segments,
            engine_args=planned_args(self.profile, self.model, self.checkpoint, asked, chosen),
            capacity=Capacity(
                kv_tokens=sized.kv_tokens,
                max_model_len=context,
                max_num_seqs=settings.max_num_seqs,
                image_tokens=sized.image_tokens,
                concurrent_images=sized.kv_tokens // max(1, sized.image_tokens),
                encoder_tokens=sized.encoder_tokens,
            ),
            limits=limits,
            adapters=PlannedAdapters(
                names=tuple(adapter.name for adapter in self.adapters),
                max_lora_rank=slots.max_lora_rank,
                slots_mib=-(-memory.lora(shape.text, slots) // MIB) if shape else 0,
            )
            if slots
            else None,
            speculation=sized.speculation,
            expected=expected(self.profile.gpu, weights, self._exchanges(shape)),
        )
