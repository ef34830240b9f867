"""Makes the plan: a pure function of (profile, model, checkpoint, hardware, the user's own engine arguments).

It divides up the card's memory and decides vLLM's arguments and the limits that the guard enforces. It starts nothing and
reads nothing. How large each part is comes from `memory.py`; what a policy wants and what it gives up, from `policy.py`.
"""

from dataclasses import dataclass, replace
from typing import Any

from serving.errors import UsageError
from serving.machine.hardware import Gpu, Hardware
from serving.machine.onecards import among
from serving.models.architecture import QWEN3_VL, Shape, Text, Vision, read_shape
from serving.models.checkpoint import Checkpoint
from serving.models.weights import Weights, at_loading, measure_weights
from serving.planning import memory
from serving.planning.adapters import Adapter, planned_slots
from serving.planning.asked import Asked, read_asked
from serving.planning.heads import DraftHead, check_head, speculation_of
from serving.planning.memory import MEASURED, MIB, Constants, Load
from serving.planning.plan import (
    Capacity,
    MemoryMib,
    Plan,
    PlannedAdapters,
    PlannedGpu,
    PlannedLimits,
    PlannedSpeculation,
)
from serving.planning.planned_args import Choices, planned_args
from serving.planning.policy import Settings, concessions, cudagraph_sizes, encoder_budgets, wished
from serving.planning.present import planned_gpu
from serving.planning.profile import Model, Profile, Video
from serving.planning.speculation import Speculation
from serving.planning.verdict import (
    QUESTION_TOKENS,
    check_adapters,
    check_context,
    check_steps,
    conceded,
    cost_of_sharing,
    exchanges,
    expected,
    pixels_within,
    reason_against,
)
from serving.planning.video import Frames

# Room for the prediction's error, and for what the desktop takes while we serve.
_HEADROOM_MIB = 200
# A context shorter than this is of no use with pictures.
_SHORTEST_CONTEXT = 2048
# The share of the card that is kept free for an architecture without formulas.
_UNKNOWN_SHARE = 0.3
# On a CPU: Python, torch and vLLM in two processes; no CUDA graphs; what the allocator keeps.
_CPU = Constants(context=1536 * MIB, workspace=0, graph_of_layer=0, fragments=256 * MIB, fragments_share=0.5)


@dataclass(frozen=True)
class Subject:
    """Everything that a plan is a function of, except for the user's engine arguments."""

    profile_name: str
    profile: Profile
    model_name: str
    model: Model
    checkpoint: Checkpoint
    hardware: Hardware
    gpu_memory_mib: int | None = None
    constants: Constants = MEASURED
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
                f"and {shape.vision.heads} of the vision encoder cannot be split over {size} cards."
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

    def _choose(self, asked: Asked, shape: Shape, weights: Weights, gpu: PlannedGpu) -> Plan:
        """Gives way step by step, in the policy's order, until the wished-for context fits; where even the last step leaves
        too little, the context becomes shorter."""
        context = asked.number("max_model_len") or min(self.profile.context, shape.text.max_positions)
        wished_for = self._limits(asked)
        limits = self._within(context, wished_for, asked, shape.vision)
        wish, fixed = self._wish(asked, limits, shape)
        draft = self._draft(asked, shape, weights, gpu, wish)
        for settings in concessions(wish, fixed):
            if draft.kv_tokens >= context and draft.memory_mib.total <= gpu.usable_mib:
                break
            draft = self._draft(asked, shape, weights, gpu, settings)
        given_up = conceded(replace(wish, max_image_pixels=wished_for.max_image_pixels), draft.settings)
        shortest = max(_SHORTEST_CONTEXT, draft.image_tokens + QUESTION_TOKENS)
        if asked.number("max_model_len") is None and shortest <= draft.kv_tokens // 1024 * 1024 < context:
            shorter = draft.kv_tokens // 1024 * 1024
            given_up = (*given_up, f"conversations of {shorter:,} instead of {context:,} tokens")
            context = shorter
        if gpu.taken_mib:
            held = f"{gpu.taken_mib:,} MiB of the card, which other programs hold now{among(gpu.onecards)}"
            given_up = (*given_up, held)
        if self.tensor_parallel_size > 1:
            given_up = (*given_up, cost_of_sharing(shape.text, self.tensor_parallel_size))
        limits = limits.model_copy(update={"max_image_pixels": draft.settings.max_image_pixels})
        if video := self.profile.video:
            limits, context = self._with_video(video, asked, limits, shape, context, draft.kv_tokens)
            if limits.max_video_frames < video.max_frames:
                given_up = (*given_up, f"{limits.max_video_frames} instead of {video.max_frames} frames of a video")
        needed_mib = -(-(draft.state_bytes + context * draft.token_bytes) // MIB)
        reason = reason_against(gpu, draft.memory_mib, draft.kv_tokens, context, needed_mib, weights.precision)
        return self._plan(asked, limits, context, weights, gpu, draft, reason, given_up=given_up)

    def _limits(self, asked: Asked) -> PlannedLimits:
        """The user's limits, which vLLM and the processor obey; else the profile's, within what the processor would produce."""
        limits, images = self.profile.limits, asked.max_images_per_request
        return PlannedLimits(
            max_image_pixels=asked.max_image_pixels or min(limits.max_image_pixels, self.checkpoint.max_pixels),
            max_images_per_request=limits.max_images_per_request if images is None else images,
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

    def _draft(self, asked: Asked, shape: Shape, weights: Weights, gpu: PlannedGpu, settings: Settings) -> "_Draft":
        """What these settings need, and what they leave for the KV cache."""
        pictures = self._limits(asked).max_images_per_request > 0
        load = Load(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            image_tokens=settings.max_image_pixels // shape.vision.pixels_per_token if pictures else 0,
            cudagraph_sizes=len(self._graphs(asked, settings)),
            lora=planned_slots(self.adapters, asked),
            speculation=self._speculation(asked),
        )
        load = replace(load, encoder_budgets=self._encoder_budgets(asked, settings, load.encoder_tokens))
        constants = _CPU if self.profile.device == "cpu" else self.constants
        needed = MemoryMib.of(
            memory.parts(shape, weights.total, load, constants, self.tensor_parallel_size), headroom=_HEADROOM_MIB
        )
        kv_mib = self._kv_mib(asked, gpu.usable_mib - needed.total)
        state = settings.max_num_seqs * memory.state_bytes_per_sequence(shape.text)
        speculation = self._planned_speculation(asked, shape, load, constants)
        token = _kv_bytes(asked, shape.text) + (speculation.kv_bytes_per_token if speculation else 0)
        kv_tokens = max(0, kv_mib * MIB - state) // token
        return _Draft(
            settings,
            needed.model_copy(update={"kv_cache": kv_mib}),
            kv_tokens,
            token,
            state,
            load.image_tokens,
            load.encoder_tokens,
            load.encoder_budgets,
            speculation,
        )

    def _exchanges(self, shape: Shape | None) -> int:
        return exchanges(shape.text) if shape and self.tensor_parallel_size > 1 else 0

    def _graphs(self, asked: Asked, settings: Settings) -> list[int]:
        if self.profile.device == "cpu" or asked.enforce_eager:
            return []
        sizes = asked.compilation.get("cudagraph_capture_sizes")
        return sizes if isinstance(sizes, list) else cudagraph_sizes(settings, self._speculation(asked).rows)

    def _speculation(self, asked: Asked) -> Speculation:
        context = asked.number("max_model_len") or self.profile.context
        return speculation_of(asked.speculation, self.head, self.tensor_parallel_size, context)

    def _planned_speculation(
        self, asked: Asked, shape: Shape, load: Load, constants: Constants
    ) -> PlannedSpeculation | None:
        wish, head = asked.speculation, load.speculation.head
        if wish is None:
            return None
        return PlannedSpeculation(
            method=wish.method,
            tokens=wish.tokens,
            head=self.head.name if self.head and head else None,
            mib=-(-memory.cost_of_speculation(shape, load, constants) // MIB),
            weights_mib=-(-head.weights // MIB) if head else 0,
            kv_bytes_per_token=_kv_bytes(asked, head.text) if head else 0,
        )

    def _encoder_budgets(self, asked: Asked, settings: Settings, encoder_tokens: int) -> tuple[int, ...]:
        given = asked.compilation.get("encoder_cudagraph_token_budgets")
        if settings.prompt_graphs and isinstance(given, list) and given:
            return tuple(given)
        return encoder_budgets(settings, encoder_tokens)

    def _kv_mib(self, asked: Asked, left_mib: int) -> int:
        if given := asked.number("kv_cache_memory_bytes"):
            return given // MIB
        return max(0, min(left_mib, self.profile.kv_cache_mib or left_mib))

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
        draft = _Draft(self._wish(asked, limits, None)[0], planned)
        return self._plan(asked, limits, context, weights, gpu, draft, reason, predicted=False)

    def _plan(
        self,
        asked: Asked,
        limits: PlannedLimits,
        context: int,
        weights: Weights,
        gpu: PlannedGpu,
        draft: "_Draft",
        reason: str | None,
        *,
        given_up: tuple[str, ...] = (),
        predicted: bool = True,
    ) -> Plan:
        settings, slots, shape = draft.settings, planned_slots(self.adapters, asked), self._shape()
        chosen = Choices(
            settings=settings,
            limits=limits,
            context=context,
            cudagraph_sizes=self._graphs(asked, settings),
            encoder_budgets=draft.encoder_budgets,
            memory=draft.memory_mib,
            predicted=predicted,
            lora=slots,
            adapters=self.adapters,
            present_mib=gpu.present_mib,
            head=self.head.place if self.head and draft.speculation and draft.speculation.head else None,
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
            memory_mib=draft.memory_mib,
            engine_args=planned_args(self.profile, self.model, self.checkpoint, asked, chosen),
            capacity=Capacity(
                kv_tokens=draft.kv_tokens,
                max_model_len=context,
                max_num_seqs=settings.max_num_seqs,
                image_tokens=draft.image_tokens,
                concurrent_images=draft.kv_tokens // max(1, draft.image_tokens),
                encoder_tokens=draft.encoder_tokens,
            ),
            limits=limits,
            adapters=PlannedAdapters(
                names=tuple(adapter.name for adapter in self.adapters),
                max_lora_rank=slots.max_lora_rank,
                slots_mib=-(-memory.lora(shape.text, slots) // MIB) if shape else 0,
            )
            if slots
            else None,
            speculation=draft.speculation,
            expected=expected(self.profile.gpu, weights.read_per_token, self._exchanges(shape)),
        )


@dataclass(frozen=True)
class _Draft:
    """What one choice of settings amounts to: each part of the memory, and the tokens that the KV cache holds. A token takes
    `token_bytes`, the recurrent state of all requests together `state_bytes`."""

    settings: Settings
    memory_mib: MemoryMib
    kv_tokens: int = 0
    token_bytes: int = 0
    state_bytes: int = 0
    image_tokens: int = 0
    encoder_tokens: int = 0
    encoder_budgets: tuple[int, ...] = ()
    speculation: PlannedSpeculation | None = None


def _kv_bytes(asked: Asked, text: Text) -> int:
    """Bytes of the KV cache for one token in these layers, at the precision that was asked for."""
    return memory.kv_bytes_per_token(text) * asked.kv_bytes_per_value // 2
