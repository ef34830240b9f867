"""The plan: what holds for every card and model, and the figures of Qwen3-VL-2B and of the built-in model."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import CheckpointError, UsageError
from serving.hub import resolve_model
from serving.machine.hardware import Gpu, Hardware
from serving.models.architecture import KNOWN, QWEN3_5, read_shape
from serving.models.checkpoint import Checkpoint, read_checkpoint
from serving.models.files import Folder
from serving.models.tensors import Tensor
from serving.models.weights import measure_weights
from serving.planning import memory
from serving.planning.advice import nearest, steps
from serving.planning.describe import describe_plan, describe_steps
from serving.planning.memory import MIB
from serving.planning.plan import Plan
from serving.planning.planner import Subject
from serving.planning.profile import Video, load_models, load_profiles, shape_dir
from serving.prepare import prepare

PROFILES, MODELS = load_profiles(), load_models()
CARDS = [name for name, profile in PROFILES.items() if profile.device == "cuda"]
SHAPES = [name for name in MODELS if shape_dir(name)]
NO_GPU = Hardware(gpus=(), driver_version=None, nvml_problem="no driver", ram_mib=24_000, cpu_count=2, wsl=False)
SIZE = {"size": {"shortest_edge": 65_536, "longest_edge": 1_048_576}}


def shape(name: str) -> Checkpoint:
    folder = shape_dir(name)
    assert folder is not None
    return read_checkpoint(Folder(folder))


QWEN = shape("qwen3-vl-2b")
AWQ = shape("qwen3-vl-2b-awq")


def with_card(name: str, total_mib: int, used_mib: int = 0, capability: str = "8.9") -> Hardware:
    card = Gpu(0, name, total_mib, used_mib, capability, bandwidth_gb_s=500.0)
    return replace(NO_GPU, gpus=(card,), driver_version="580.95.05", nvml_problem=None)


def subject_of(
    profile: str = "rtx3060", checkpoint: Checkpoint = QWEN, hardware: Hardware = NO_GPU, **options: Any
) -> Subject:
    model = options.pop("model", "qwen3-vl-2b")
    return Subject(
        profile_name=profile, profile=PROFILES[profile], model_name=model, model=MODELS[model], checkpoint=checkpoint,
        hardware=hardware, **options,
    )  # fmt: skip


def plan_of(*arguments: Any, user_args: dict[str, Any] | None = None, **options: Any) -> Plan:
    return subject_of(*arguments, **options).plan(user_args)


def weighing(size: int | None) -> Checkpoint:
    """Qwen3-VL-2B with weights of that many bytes; None for a folder without weights."""
    return replace(QWEN, tensors={} if size is None else {"model.layers": Tensor("BF16", (size // 2,), size)})


def test_the_sizes_of_qwen3_vl_2b() -> None:
    known = read_shape(QWEN.architecture, QWEN.config)
    assert known is not None
    assert memory.kv_bytes_per_token(known.text) == 112 * 1024
    assert 1024 * 768 // known.vision.pixels_per_token == 768
    assert known.parameters == 2_127_532_032  # that the model's page on the hub names


@pytest.mark.parametrize(("model", "mib"), [("qwen2-vl-2b", 32), ("qwen2.5-vl-3b", 125), ("qwen3-vl-2b", 64)])
def test_the_rotary_table_is_as_long_as_vllms(model: str, mib: int) -> None:
    """vLLM 0.32's `get_rope` of the three configs; of Qwen3-VL the weights that were measured say the same."""
    known = read_shape(shape(model).architecture, shape(model).config)
    assert known is not None
    assert memory.rotary_table(known.text) == mib * MIB


def test_the_size_without_weights_is_that_of_the_weights_when_they_come() -> None:
    folder = resolve_model("demo").folder
    assert folder is not None
    demo = read_checkpoint(Folder(folder))
    known = read_shape(demo.architecture, demo.config)
    assert demo.tensors
    read, told = (measure_weights(known, demo.config, tensors) for tensors in (demo.tensors, {}))
    assert (read.total, read.read_per_token, read.precision) == (told.total, told.read_per_token, told.precision)


def test_json_has_what_the_contract_names() -> None:
    plan = json.loads(plan_of().model_dump_json())
    assert {
        "profile", "model", "fits", "reason", "gpu", "memory_mib", "engine_args", "capacity", "limits", "expected",
    } <= plan.keys()  # fmt: skip
    assert {"name", "total_mib", "usable_mib"} <= plan["gpu"].keys()
    assert {
        "weights", "activations", "vision_encoder", "encoder_cache", "logits", "cuda_graphs", "context", "kv_cache",
        "headroom", "total",
    } <= plan["memory_mib"].keys()  # fmt: skip
    assert {"kv_tokens", "max_model_len", "max_num_seqs", "image_tokens", "concurrent_images"} <= plan[
        "capacity"
    ].keys()
    assert {"max_image_pixels", "max_images_per_request", "max_body_mib"} <= plan["limits"].keys()
    assert {"decode_tokens_per_s", "source"} <= plan["expected"].keys()


@pytest.mark.parametrize("card", CARDS)
def test_every_card_holds_the_model_of_its_profile_with_a_conversation_of_full_length(card: str) -> None:
    profile = PROFILES[card]
    plan = plan_of(card, shape(profile.model), model=profile.model)
    assert plan.fits
    assert plan.reason is None
    assert plan.given_up == ()
    assert plan.capacity.kv_tokens >= plan.capacity.max_model_len == profile.context


def test_12_gb_hold_62_000_tokens_with_pictures_of_1280_by_960() -> None:
    plan = plan_of("rtx3060", AWQ, model="qwen3-vl-2b-awq")
    assert plan.limits.max_image_pixels == 1280 * 960
    assert plan.capacity.kv_tokens >= 62_000


_MEMORY = st.integers(1, 100_000)
_WEIGHTS = st.none() | st.integers(1, 40_000 * MIB)
_USER = st.fixed_dictionaries(
    {},
    optional={"max_model_len": st.integers(512, 262_144), "kv_cache_memory_bytes": st.integers(1, 50_000 * MIB)},
)
# Given by the user, nothing is conceded, so that one number can be followed.
_FIXED = {"max_model_len": 4096, "max_num_seqs": 8, "max_num_batched_tokens": 2048}


@given(st.sampled_from(sorted(PROFILES)), _MEMORY, _WEIGHTS, _USER)
def test_the_parts_sum_to_the_total_and_a_plan_that_fits_is_within_the_card(
    profile: str, mib: int, weights: int | None, user: dict[str, int]
) -> None:
    plan = plan_of(profile, weighing(weights), gpu_memory_mib=mib, user_args=user)
    parts = plan.memory_mib.model_dump()
    assert parts.pop("total") == sum(parts.values())
    assert min(parts.values()) >= 0
    assert 0 <= plan.gpu.usable_mib <= plan.gpu.total_mib == mib
    assert plan.fits == (plan.reason is None)
    if plan.fits:
        assert plan.memory_mib.total <= plan.gpu.usable_mib
        assert plan.capacity.kv_tokens >= plan.capacity.max_model_len
        assert str(plan.capacity.max_num_seqs) in describe_plan(plan)


@given(st.sampled_from(sorted(PROFILES)), st.sampled_from(SHAPES), _MEMORY, st.integers(0, 50_000), _USER)
def test_what_fits_still_fits_on_a_larger_card(
    profile: str, model: str, mib: int, more: int, user: dict[str, int]
) -> None:
    user = {name: min(value, 32_000) if name == "max_model_len" else value for name, value in user.items()}
    small, large = (
        plan_of(profile, shape(model), model=model, gpu_memory_mib=each, user_args=user) for each in (mib, mib + more)
    )
    assert large.fits >= small.fits


@given(st.sampled_from(CARDS), _MEMORY, st.integers(0, 50_000), _WEIGHTS)
def test_more_memory_never_means_fewer_tokens(profile: str, mib: int, more: int, weights: int | None) -> None:
    pixels = {"mm_processor_kwargs": {"size": {"shortest_edge": 65_536, "longest_edge": 1_048_576}}}
    small, large = (
        plan_of(profile, weighing(weights), gpu_memory_mib=each, user_args=_FIXED | pixels)
        for each in (mib, mib + more)
    )
    assert large.capacity.kv_tokens >= small.capacity.kv_tokens


_SIZES = {
    "max_num_seqs": st.integers(1, 512),
    "max_num_batched_tokens": st.integers(16, 65_536),
    "image_tokens": st.integers(0, 16_384),
    "cudagraph_sizes": st.integers(0, 64),
}


@given(st.sampled_from(SHAPES), st.fixed_dictionaries(_SIZES), st.sampled_from(sorted(_SIZES)), st.integers(1, 4096))
def test_more_of_anything_never_needs_less_memory(model: str, sizes: dict[str, int], name: str, more: int) -> None:
    checkpoint = shape(model)
    known = read_shape(checkpoint.architecture, checkpoint.config)
    assert known is not None
    weights = measure_weights(known, checkpoint.config, {}).total
    small, large = (
        memory.parts(known, weights, memory.Load(**each), memory.MEASURED)
        for each in (sizes, sizes | {name: sizes[name] + more})
    )
    assert large.total >= small.total


@given(st.sets(st.integers(256, 16_384), max_size=12), st.integers(256, 16_384))
def test_one_more_graph_of_the_encoder_never_needs_less_memory(budgets: set[int], one_more: int) -> None:
    known = read_shape(QWEN.architecture, QWEN.config)
    assert known is not None
    few, more = (
        memory.encoder_graphs(known.vision, memory.Load(16, 2048, 1200, 12, tuple(each)), memory.MEASURED)
        for each in (budgets, budgets | {one_more})
    )
    assert more >= few


@given(st.sampled_from(CARDS), _MEMORY, st.integers(512, 262_144))
def test_the_shorter_context_that_a_refusal_names_fits(card: str, mib: int, wanted: int) -> None:
    subject, user = subject_of(card, gpu_memory_mib=mib), {"max_model_len": wanted}
    plan = subject.plan(user)
    if plan.fits:
        return
    for said in nearest(subject, plan, user):
        _, named, rest = said.partition("--max-model-len ")
        if named:
            shorter = int(rest.split()[0])
            assert 0 < shorter < wanted
            assert subject.plan({"max_model_len": shorter}).fits


def test_a_card_that_is_too_small_is_told_what_takes_the_room_and_what_would_fit() -> None:
    subject = subject_of("rtx3060", shape("qwen3-vl-8b"), model="qwen3-vl-8b")
    others = [replace(subject, model_name=name, model=MODELS[name], checkpoint=shape(name)) for name in SHAPES]
    plan = subject.plan()
    assert not plan.fits
    assert plan.reason is not None
    assert "the weights take 16,786 MiB (16 bits)" in plan.reason
    said = nearest(subject, plan, {}, others)
    assert len(said) == 3
    assert all("fits" in each for each in said)
    assert said[0] in describe_plan(plan.model_copy(update={"alternatives": said}))


def test_256k_of_context_names_what_it_needs_and_what_there_is() -> None:
    plan = plan_of(user_args={"max_model_len": 262_144})
    assert plan.reason is not None
    assert "a conversation of 262,144 tokens needs 28," in plan.reason
    assert any("--max-model-len" in each for each in nearest(subject_of(), plan, {"max_model_len": 262_144}))


def test_a_kv_cache_that_is_too_large_is_what_the_refusal_names() -> None:
    user = {"kv_cache_memory_bytes": "20G"}
    subject = subject_of("rtx3060", AWQ, model="qwen3-vl-2b-awq")
    plan = subject.plan(user)
    assert not plan.fits
    left = plan.gpu.usable_mib - plan.memory_mib.total + 20 * 1024
    assert f"--kv-cache-memory-bytes asks for 20,480 MiB, and {left:,} MiB are left for it" in str(plan.reason)
    assert nearest(subject, plan, user)[0].startswith("without --kv-cache-memory-bytes fits")
    # As much as is named fits, though with shorter steps than wished.
    fitting = subject.plan({"kv_cache_memory_bytes": left * MIB})
    assert fitting.fits
    assert fitting.memory_mib.kv_cache == left
    assert "steps of 1,024 instead of 2,048 tokens" in fitting.given_up[0]


def test_what_a_conversation_of_a_hybrid_needs_counts_its_state_once() -> None:
    import transformers

    config = transformers.Qwen3_5Config().to_dict()
    hybrid = Checkpoint(QWEN3_5, config, {}, min_pixels=65_536, max_pixels=1_048_576)
    plan = plan_of(
        "rtx4090", hybrid, user_args={"max_num_seqs": 64, "max_model_len": 8192, "kv_cache_memory_bytes": "1G"}
    )
    assert plan.capacity.kv_tokens == 0  # the state of 64 requests takes more
    # 24 layers keep 49.1 MiB of state for each request, 8 keep 32 KiB for a token.
    assert "a conversation of 8,192 tokens needs 3,401 MiB of KV cache" in str(plan.reason)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("context", "block"), [(8192, 16), (8191, 16), (8193, 128)])
def test_a_cache_for_one_conversation_is_the_smallest_with_which_vllm_starts(context: int, block: int) -> None:
    """vLLM counts whole blocks, and keeps one of them back."""
    asked = {"max_model_len": context, "block_size": block}
    least = -(-(-(-context // block) + 1) * block * 112 * 1024 // MIB)
    for mib, fits in ((least, True), (least - 1, False)):
        plan = plan_of(user_args=asked | {"kv_cache_memory_bytes": mib * MIB})
        assert (plan.fits, vllm_starts(plan, block)) == (fits, fits)
    needs = f"a conversation of {context:,} tokens needs {least:,} MiB of KV cache"
    assert f"{needs}, and {least - 1:,} MiB are planned for it" in str(plan.reason)


def vllm_starts(plan: Plan, block: int) -> bool:
    """What vLLM itself says of the planned cache for Qwen3-VL-2B's 28 layers."""
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_utils import check_enough_kv_cache_memory
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    config: Any = VllmConfig()
    config.cache_config.kv_cache_layout = "NHD"
    config.model_config = SimpleNamespace(max_model_len=plan.capacity.max_model_len)
    layer = FullAttentionSpec(block_size=block, num_kv_heads=8, head_size=128, dtype=torch.bfloat16)
    try:
        check_enough_kv_cache_memory(
            config, dict.fromkeys(map(str, range(28)), layer), plan.engine_args["kv_cache_memory_bytes"]
        )
    except ValueError:
        return False
    return True


def test_a_small_card_gives_way_in_words_and_not_where_the_user_decided() -> None:
    plan = plan_of("rtx4060", shape("qwen3-vl-4b-awq"), model="qwen3-vl-4b-awq", gpu_memory_mib=7000)
    assert plan.fits
    assert any("instead of" in each for each in plan.given_up)
    assert plan.given_up[0] in describe_plan(plan)
    fixed = plan_of(
        "rtx4060", shape("qwen3-vl-4b-awq"), model="qwen3-vl-4b-awq", gpu_memory_mib=7000,
        user_args={"max_num_batched_tokens": 2048, "max_num_seqs": 16},
    )  # fmt: skip
    assert (fixed.engine_args["max_num_batched_tokens"], fixed.capacity.max_num_seqs) == (2048, 16)


def test_steps_do_not_become_too_short_for_the_requests_that_the_user_wants_at_once() -> None:
    for mib in range(6_000, 12_000, 500):
        plan = plan_of("rtx4060ti", user_args={"max_num_seqs": 2000}, gpu_memory_mib=mib)
        assert plan.engine_args["max_num_batched_tokens"] >= 2000


def test_one_step_in_each_direction_is_a_plan_of_its_own() -> None:
    subject = subject_of("rtx3060", AWQ, model="qwen3-vl-2b-awq")
    found = {step.flag: step.plan for step in steps(subject, subject.plan(), {})}
    assert (
        found[f"--max-num-seqs {2 * subject.plan().capacity.max_num_seqs}"].capacity.kv_tokens
        < subject.plan().capacity.kv_tokens
    )
    assert found["--max-model-len 4096"].fits
    assert "KV tokens (-" in describe_steps(subject, subject.plan(), {})


def test_a_step_says_what_else_it_changes_where_something_was_given_up() -> None:
    subject = subject_of("rtx4060", shape("qwen3-vl-4b-fp8"), model="qwen3-vl-4b-fp8")
    plan = subject.plan()
    found = {step.flag: step for step in steps(subject, plan, {})}
    more = found[f"--max-num-batched-tokens {2 * plan.engine_args['max_num_batched_tokens']}"]
    assert more.also == (f"conversations of {more.plan.capacity.max_model_len:,}",)
    assert more.plan.capacity.max_model_len < plan.capacity.max_model_len
    assert f"KV tokens ({more.plan.capacity.kv_tokens - plan.capacity.kv_tokens:+,}), with {more.also[0]}" in (
        describe_steps(subject, plan, {})
    )
    assert any("requests at once" in said for said in found[f"--max-model-len {plan.capacity.max_model_len // 2}"].also)
    easy = subject_of("rtx4090", AWQ, model="qwen3-vl-2b-awq")
    assert not any(step.also for step in steps(easy, easy.plan(), {}))


def test_a_plan_without_pictures_tells_of_none() -> None:
    subject, user = subject_of("rtx3060", AWQ, model="qwen3-vl-2b-awq"), {"limit_mm_per_prompt": {"image": 0}}
    plan = subject.plan(user)
    assert "Pictures: none" in describe_plan(plan)
    assert "pixels" not in describe_plan(plan) + describe_steps(subject, plan, user)


@pytest.mark.parametrize("name", ["qwen2-vl-2b", "qwen2.5-vl-3b-awq", "qwen3-vl-2b"])
def test_without_pictures_the_encoder_is_not_loaded_and_its_weights_are_not_planned(name: str) -> None:
    checkpoint, user = shape(name), {"limit_mm_per_prompt": {"image": 0}}
    known = read_shape(checkpoint.architecture, checkpoint.config)
    assert known is not None
    seeing, blind = (plan_of("rtx3090", checkpoint, user_args=args).memory_mib for args in ({}, user))
    assert seeing.weights - blind.weights == pytest.approx(2 * known.vision.body.total / MIB, abs=1)
    tensors = {"model.visual.x": Tensor("BF16", (MIB,), 2 * MIB), "model.y": Tensor("BF16", (MIB,), 2 * MIB)}
    weighed = replace(checkpoint, tensors=tensors)
    seeing, blind = (plan_of("rtx3090", weighed, user_args=args).memory_mib for args in ({}, user))
    assert seeing.weights - blind.weights == 2


def test_a_profile_of_video_alone_plans_the_encoder_too() -> None:
    profile = PROFILES["rtx3090"]
    video = Video(max_frames=8, max_frame_pixels=262_144)
    alone = profile.model_copy(
        update={"video": video, "limits": profile.limits.model_copy(update={"max_images_per_request": 0})}
    )
    plan = replace(subject_of("rtx3090"), profile=alone).plan()
    assert plan.limits.max_images_per_request == plan.limits.max_video_frames == 8
    assert plan.memory_mib.encoder_cache > 0


def test_an_architecture_that_is_not_known_is_left_to_vllms_own_profiling() -> None:
    other = replace(weighing(3 * 2**30), architecture="SomeOtherForConditionalGeneration")
    plan = plan_of("rtx3060", other)
    assert plan.fits
    assert not plan.predicted
    assert "kv_cache_memory_bytes" not in plan.engine_args
    assert plan.memory_mib.headroom > 3000
    assert "vLLM measures them itself" in describe_plan(plan)
    with pytest.raises(CheckpointError, match="cannot be told"):
        plan_of("rtx3060", replace(other, tensors={}))
    assert plan_of("rtx3060", other, user_args={"kv_cache_memory_bytes": "4G"}).memory_mib.kv_cache == 4096
    subject, user = subject_of("rtx3060", other), {"kv_cache_memory_bytes": "20G"}
    refused = subject.plan(user)
    assert "--kv-cache-memory-bytes asks for 20,480 MiB" in str(refused.reason)
    assert nearest(subject, refused, user) == ("without --kv-cache-memory-bytes fits: 16 bits, conversations of 8,192",)


def test_what_the_user_gives_wins_and_is_planned_with() -> None:
    plan = plan_of(user_args={"max_model_len": "16K", "max_num_seqs": 4, "kv_cache_memory_bytes": "2G", "seed": 7})
    assert (plan.capacity.max_model_len, plan.capacity.max_num_seqs) == (16_384, 4)
    assert (plan.memory_mib.kv_cache, plan.capacity.kv_tokens) == (2048, (2**31 // (16 * 112 * 1024) - 1) * 16)
    assert (plan.engine_args["max_model_len"], plan.engine_args["seed"]) == (16_384, 7)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"max_model_len": "auto"}, "--max-model-len"),
        ({"max_model_len": 0}, "--max-model-len"),
        ({"max_model_len": True}, "--max-model-len"),
        ({"max_model_len": [8192, "-tp"]}, "--max-model-len"),
        ({"max_model_len": "9" * 400 + "k"}, "far beyond what any card holds"),
        ({"max_num_seqs": -3}, "--max-num-seqs"),
        ({"gpu_memory_utilization": 1.5}, "--gpu-memory-utilization is 1.5"),
        ({"gpu_memory_utilization": -1}, "--gpu-memory-utilization"),
        ({"gpu_memory_utilization": True}, "--gpu-memory-utilization"),
        ({"gpu_memory_utilization": "90%"}, "--gpu-memory-utilization is '90%'"),
        ({"gpu_memory_utilization": float("nan")}, "--gpu-memory-utilization is nan"),
        ({"gpu_memory_utilization": float("inf")}, "--gpu-memory-utilization is inf"),
        ({"max_num_seqs": 10**6}, "far beyond what any card holds"),
        ({"max_model_len": 300_000}, "more than the 262,144 tokens that the model knows"),
        ({"max_num_seqs": 4096}, "4,096 requests at once need a token each of every step, and a step has 2,048"),
        ({"max_num_batched_tokens": 16}, "and a step has 16"),
        ({"dtype": "float32"}, "16 bits are planned"),
        ({"speculative_config": {"method": "medusa", "model": "a/b"}}, r"weights of a draft model \('medusa'\)"),
        ({"speculative_config": '{"model": "a/b"}'}, "weights of a draft model"),
        ({"pipeline_parallel_size": 2}, "several cards for one server"),
        ({"decode_context_parallel_size": 2}, "several cards for one server"),
        ({"block_size": 24}, "takes multiples of 16"),
        ({"enable_chunked_prefill": False}, "8,192 tokens would go through in one step, and a step has 2,048"),
        (
            {"max_num_batched_tokens": 1024, "disable_chunked_mm_input": True},
            "1,200 tokens would go through in one step",
        ),
        ({"cpu_offload_gb": "4G"}, "how many GiB of weights"),
        ({"offload_group_size": 8}, "and --cpu-offload-gb is"),
        ({"mm_encoder_tp_mode": "data"}, "planned with its part of the vision encoder"),
        ({"enable_tower_connector_lora": True}, "for the language model alone"),
        ({"specialize_active_lora": True}, "not for each number of them"),
        ({"kv_cache_dtype": "fp8", "kv_cache_dtype_skip_layers": [0, 27]}, "all layers at one precision"),
        ({"enable_lora": True, "max_lora_rank": 24}, "vLLM has slots of rank 1, 8, 16, 32,"),
        ({"tensor_parallel_size": 3}, "cannot be split over 3 cards"),
        ({"quantization": "awq"}, "quantizes nothing"),
        ({"kv_cache_dtype": "int3"}, "--kv-cache-dtype int3"),
        ({"mm_processor_kwargs": {"do_resize": True}}, "without `size`"),
        ({"mm_processor_kwargs": {"max_pixels": 100}}, "`max_pixels` would win over `size`"),
        ({"mm_processor_kwargs": SIZE | {"max_pixels": 2**24}}, "`max_pixels` would win over `size`"),
        ({"mm_processor_kwargs": SIZE | {"images_kwargs": {"max_pixels": 2**24}}}, "`images_kwargs` would win"),
        ({"mm_processor_kwargs": {"size": {"longest_edge": 99_999}}}, "`shortest_edge` and `longest_edge`"),
        ({"mm_processor_kwargs": "{"}, "needs a JSON object"),
        ({"mm_processor_kwargs": None}, "needs a JSON object"),
        ({"compilation_config": {"cudagraph_capture_sizes": None}}, "a list of whole numbers above 0"),
        ({"compilation_config": {"cudagraph_capture_sizes": []}}, "a list of whole numbers above 0"),
        ({"compilation_config": "{"}, "--compilation-config needs a JSON object"),
        ({"compilation_config": 3}, "--compilation-config needs a JSON object"),
        ({"compilation_config": {"cudagraph_capture_sizes": ["a"]}}, "`cudagraph_capture_sizes` is"),
        ({"compilation_config": {"cudagraph_capture_sizes": 8}}, "a list of whole numbers above 0"),
        ({"compilation_config": {"encoder_cudagraph_token_budgets": ["16k"]}}, "`encoder_cudagraph_token_budgets` is"),
        ({"compilation_config": {"max_cudagraph_capture_size": 8}}, "write --compilation-config"),
        ({"hf_overrides": "{text_config: 1}"}, "--hf-overrides needs a JSON object"),
        ({"limit_mm_per_prompt": {"image": -1}}, "a number from 0 to 1,000"),
        ({"limit_mm_per_prompt": {"video": 1}}, "nothing is planned for video"),
        (
            {"max_model_len": 1024, "mm_processor_kwargs": {"size": {"shortest_edge": 65_536, "longest_edge": 2**22}}},
            "is 4,096 tokens, and a conversation has 1,024",
        ),
        ({"mm_processor_kwargs": {"size": {"shortest_edge": 65_536, "longest_edge": 2**24}}}, "has 8,192, of which"),
        ({"max_model_len": 128}, "choose smaller pictures or a larger --max-model-len, or no pictures"),
    ],
)
def test_arguments_that_make_no_sense_or_break_the_plan_are_refused(args: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plan_of(user_args=args)


def test_feed_forward_networks_that_do_not_divide_are_not_split_over_cards() -> None:
    """Qwen2.5-VL-3B has 16 heads, and 3,420 inner values in its vision encoder, which vLLM does not divide by 8."""
    subject = subject_of("rtx3090", shape("qwen2.5-vl-3b"), model="qwen2.5-vl-3b")
    assert subject.plan({"tensor_parallel_size": 4}).fits
    with pytest.raises(UsageError, match="networks of 11,008 and 3,420, cannot be split over 8 cards"):
        subject.plan({"tensor_parallel_size": 8})


def test_pictures_and_precision_that_the_user_gives_are_planned_with() -> None:
    size = {"size": {"shortest_edge": 65_536, "longest_edge": 4_194_304}}
    plan = plan_of(user_args={"mm_processor_kwargs": size, "limit_mm_per_prompt": {"image": 1}})
    assert (plan.capacity.image_tokens, plan.capacity.encoder_tokens) == (4096, 4096)
    assert plan.limits.max_images_per_request == 1
    assert plan.memory_mib.vision_encoder > plan_of().memory_mib.vision_encoder
    assert plan_of(user_args={"limit_mm_per_prompt": {"image": 0}}).memory_mib.vision_encoder == 0
    assert plan_of(user_args={"enforce_eager": True}).memory_mib.cuda_graphs == 0
    assert plan_of(user_args={"kv_cache_dtype": "fp8"}).capacity.kv_tokens > 1.8 * plan_of().capacity.kv_tokens
    graphs = plan_of(user_args={"compilation_config": {"cudagraph_capture_sizes": [1, 2]}})
    assert graphs.engine_args["compilation_config"] == {"cudagraph_capture_sizes": [1, 2]}
    assert graphs.memory_mib.cuda_graphs < plan_of().memory_mib.cuda_graphs


def test_flashinfers_workspace_is_planned_where_vllm_takes_it_for_the_attention() -> None:
    """394 MiB of FlashInfer on an RTX 3060 with a cache of 8 bits, which FlashAttention does not read there."""
    fp8, told = {"kv_cache_dtype": "fp8"}, {"attention_backend": "FLASHINFER"}

    def buffers(card: Hardware, args: dict[str, Any]) -> int:
        return plan_of(hardware=card, user_args=args).memory_mib.buffers

    ampere, hopper = (with_card("X", 12_288, capability=each) for each in ("8.6", "9.0"))
    plain = buffers(ampere, {})
    assert buffers(ampere, fp8) == buffers(ampere, told) == buffers(with_card("X", 12_288, capability="10.0"), {})
    assert buffers(ampere, fp8) == plain + 394
    assert buffers(hopper, fp8) == buffers(ampere, fp8 | {"attention_backend": "TRITON_ATTN"}) == plain
    assert buffers(ampere, {"attention_config": {"backend": "FLASHINFER"}}) == plain + 394


def test_the_context_is_the_models_own_where_that_is_shorter() -> None:
    text = QWEN.config["text_config"] | {"max_position_embeddings": 4096}
    short = replace(QWEN, config=QWEN.config | {"text_config": text})
    assert plan_of(checkpoint=short).capacity.max_model_len == 4096


def test_pictures_are_bounded_by_the_profile_and_by_the_models_processor() -> None:
    plan = plan_of()
    assert plan.engine_args["mm_processor_kwargs"] == {"size": {"shortest_edge": 65_536, "longest_edge": 1_228_800}}
    assert plan.capacity.image_tokens == 1_228_800 // 1024
    small = plan_of(checkpoint=replace(QWEN, max_pixels=50_176))
    assert small.limits.max_image_pixels == 50_176
    # A shortest edge above the longest would make every picture an error.
    assert small.engine_args["mm_processor_kwargs"] == {"size": {"shortest_edge": 50_176, "longest_edge": 50_176}}
    # Told so by the user, the processor makes pictures as large as that: then they are what is planned.
    size = {"size": {"shortest_edge": 50_176, "longest_edge": 1_048_576}}
    told = plan_of(checkpoint=replace(QWEN, max_pixels=50_176), user_args={"mm_processor_kwargs": size})
    assert (told.limits.max_image_pixels, told.capacity.image_tokens) == (1_048_576, 1024)


def test_the_largest_picture_fits_a_conversation_with_a_question_about_it() -> None:
    plan = plan_of(user_args={"max_model_len": 512})
    assert (plan.capacity.image_tokens, plan.limits.max_image_pixels) == (256, 256 * 1024)
    assert plan.engine_args["mm_processor_kwargs"]["size"]["longest_edge"] == 256 * 1024
    assert "pictures of 262,144 instead of 1,228,800 pixels" in describe_plan(plan)
    without = plan_of(user_args={"max_model_len": 128, "limit_mm_per_prompt": {"image": 0}})
    assert without.fits


def test_a_conversation_is_not_made_shorter_than_the_picture_that_the_user_wants() -> None:
    large = {"mm_processor_kwargs": {"size": {"shortest_edge": 65_536, "longest_edge": 4096 * 1024}}}
    for mib in range(6_000, 9_000, 100):
        plan = plan_of(gpu_memory_mib=mib, user_args=large)
        assert not plan.fits or plan.capacity.max_model_len > plan.capacity.image_tokens


def test_the_recommended_sampling_reaches_vllm_as_vllm_takes_it() -> None:
    sampling = plan_of().engine_args["override_generation_config"]
    assert sampling == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_new_tokens": 4096}
    assert isinstance(sampling["top_k"], int)


def test_the_kernel_for_quantized_weights_is_left_to_vllm() -> None:
    assert "quantization" not in plan_of(model="qwen3-vl-2b-awq").engine_args


@pytest.mark.parametrize(
    ("user_args", "mib"),
    [
        # Measured on an H200 with vLLM 0.32: 4,122 MiB of 16 bits; of FP8 its log says 2.39 GiB, 53 MiB more than this.
        ({}, 4122),
        ({"quantization": "fp8_per_tensor"}, 2394),
        ({"quantization": "fp8_per_channel", "quantization_config": '{"ignore": ["re:.*visual.*"]}'}, 2778),
        ({"quantization": "mxfp4"}, 1584),
        ({"quantization": "some_other"}, 4122),
    ],
)
def test_what_is_rounded_while_it_is_loaded_is_planned_as_it_will_be(user_args: dict[str, Any], mib: int) -> None:
    plan = plan_of("rtx4090", user_args=user_args)
    assert plan.memory_mib.weights == pytest.approx(mib, abs=1)
    method = user_args.get("quantization", "")
    assert plan.precision == (f"{method} at loading" if method.startswith(("fp8", "mxfp4")) else "16 bits")


@pytest.mark.parametrize("profile", ["rtx4060", "rtx3060"])
def test_weights_in_the_machines_memory_take_none_of_the_card_and_cost_speed(profile: str) -> None:
    def plan(gib: float) -> Plan:
        return plan_of(profile, shape("qwen3-vl-8b-awq"), model="qwen3-vl-8b-awq", user_args={"cpu_offload_gb": gib})

    plans = [plan(gib) for gib in (0, 1.5, 2, 1000)]
    weights = [each.memory_mib.weights for each in plans]
    assert weights[:3] == [weights[0], weights[0] - 1536, weights[0] - 2048]
    # The output head, the embedding and the encoder stay.
    assert 3 * 1024 < weights[3] < weights[2]
    speeds = [each.expected.decode_tokens_per_s or 0 for each in plans]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[1] < 7.5
    assert "1,611 MB more from the machine's memory at 12 GB/s" in plans[1].expected.source
    assert plans[2].fits


def test_what_is_quantized_already_is_not_rounded_again() -> None:
    four = plan_of("rtx4090", AWQ, model="qwen3-vl-2b-awq")
    assert (
        plan_of("rtx4090", AWQ, model="qwen3-vl-2b-awq", user_args={"quantization": "fp8"}).memory_mib
        == four.memory_mib
    )


def test_fewer_bytes_a_token_are_expected_to_be_faster_and_a_cpu_promises_nothing() -> None:
    slow, fast = plan_of().expected, plan_of("rtx3060", AWQ, model="qwen3-vl-2b-awq").expected
    assert slow.decode_tokens_per_s is not None
    assert fast.decode_tokens_per_s is not None
    assert 50 < slow.decode_tokens_per_s < 105 < fast.decode_tokens_per_s
    assert "360 GB/s" in slow.source
    assert plan_of("cpu").expected.decode_tokens_per_s is None


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_a_config_without_what_the_plan_needs_is_refused_by_the_key(section: str) -> None:
    needed = {
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings",
    } if section == "text_config" else {
        "depth", "hidden_size", "intermediate_size", "out_hidden_size", "patch_size", "spatial_merge_size",
        "temporal_patch_size", "num_position_embeddings",
    }  # fmt: skip
    for key in needed:
        rest = {name: value for name, value in QWEN.config[section].items() if name != key}
        with pytest.raises(CheckpointError, match=f"no usable `{key}`"):
            plan_of(checkpoint=replace(QWEN, config=QWEN.config | {section: rest}))


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400)
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner)
)
_QUANTIZATION = st.fixed_dictionaries(
    {"quant_method": st.sampled_from(["awq", "gptq", "compressed-tensors", "fp8", "bitsandbytes", "other"])},
    optional={"bits": _ANYTHING, "group_size": _ANYTHING, "ignore": _ANYTHING, "lm_head": _ANYTHING}
    | {
        "config_groups": st.fixed_dictionaries(
            {"a": st.fixed_dictionaries({"targets": _ANYTHING, "weights": _ANYTHING})}
        )
    },
)


@given(st.data(), st.sampled_from(["", "text_config", "vision_config"]), st.booleans())
def test_whatever_stands_in_a_config_it_is_planned_or_refused_in_words(data: Any, section: str, weighed: bool) -> None:
    """What a stranger's model says of itself, and what --hf-overrides make of it."""
    name = data.draw(st.sampled_from(SHAPES))
    checkpoint, model = shape(name), MODELS[name]
    inner = checkpoint.config.get(section, {}) if section else checkpoint.config
    key = data.draw(
        st.sampled_from([*inner, "quantization_config", "mlp_ratio", "layer_types", "full_attention_interval"])
    )
    changed = {key: data.draw((_QUANTIZATION if key == "quantization_config" else _ANYTHING) | _ANYTHING)}
    if weighed:
        checkpoint = replace(checkpoint, tensors=weighing(2**30).tensors)
    subject = replace(subject_of(checkpoint=checkpoint), model=model)
    architecture = data.draw(st.sampled_from(KNOWN))
    for each in (subject, replace(subject, checkpoint=replace(checkpoint, architecture=architecture))):
        with contextlib.suppress(CheckpointError, UsageError):
            plan = each.plan({"hf_overrides": {section: changed} if section else changed})
            assert describe_plan(plan)


def test_a_config_that_the_user_overrides_is_planned_as_vllm_will_read_it() -> None:
    bits = {
        "quantization_config": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "modules_to_not_convert": ["visual"],
        }
    }
    plain, four = plan_of(), plan_of(user_args={"hf_overrides": bits | {"text_config": {"dtype": "float16"}}})
    assert four.precision == "awq W4"
    assert four.memory_mib.weights < 0.55 * plain.memory_mib.weights
    assert four.capacity.kv_tokens > plain.capacity.kv_tokens
    assert four.engine_args["hf_overrides"]["quantization_config"] == bits["quantization_config"]


def test_an_architecture_that_the_user_names_is_the_one_that_is_planned() -> None:
    named = {"hf_overrides": {"architectures": ["Qwen3VLForConditionalGeneration"]}}
    derived = replace(QWEN, architecture="MyOwnForConditionalGeneration")
    assert plan_of(checkpoint=derived, user_args=named).memory_mib == plan_of().memory_mib


def test_segments_grow_but_in_wsl_beside_other_cards_and_where_the_allocator_is_the_users() -> None:
    plan = plan_of("rtx3060", AWQ)
    assert plan.expandable_segments
    for fixed in (
        plan_of("rtx3060", AWQ, replace(NO_GPU, wsl=True)),
        plan_of("rtx3060", AWQ, own_allocator=True),
        plan_of("rtx3060", AWQ, tensor_parallel_size=2),
    ):
        assert not fixed.expandable_segments
        assert fixed.memory_mib.fragmentation > plan.memory_mib.fragmentation + 200
    assert not plan_of("cpu").expandable_segments
    assert "leave gaps" in describe_plan(plan_of("rtx3060", AWQ, own_allocator=True))
    assert "leave gaps" not in describe_plan(plan) + describe_plan(plan_of("cpu"))


def test_who_configures_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare("rtx3060", None).plan.expandable_segments
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        with monkeypatch.context() as own:
            own.setenv(name, "expandable_segments:False")
            assert not prepare("rtx3060", None).plan.expandable_segments


def test_weights_of_16_bits_are_multiplied_by_cublas_which_takes_more() -> None:
    bf16, fp8 = plan_of(), plan_of("rtx3060", shape("qwen3-vl-2b-fp8"), model="qwen3-vl-2b-fp8")
    assert bf16.memory_mib.buffers - fp8.memory_mib.buffers == pytest.approx(memory.MEASURED.cublas // MIB, abs=2)


def _compilation(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = plan.engine_args["compilation_config"]
    return found


def test_pictures_and_prompts_get_graphs_only_on_a_chip_that_is_faster_than_their_launches() -> None:
    h200 = with_card("NVIDIA H200", 143_771, capability="9.0")
    with_graphs, without = plan_of("rtx4090", AWQ, h200), plan_of("rtx4090", AWQ)
    assert "cudagraph_mm_encoder" not in _compilation(without)
    assert max(_compilation(without)["cudagraph_capture_sizes"]) == without.capacity.max_num_seqs
    graphs = _compilation(with_graphs)
    assert graphs["cudagraph_mm_encoder"] is True
    assert max(graphs["encoder_cudagraph_token_budgets"]) == with_graphs.capacity.encoder_tokens
    # vLLM's own condition for a capture that works.
    assert graphs["encoder_cudagraph_max_vision_items_per_batch"] <= min(graphs["encoder_cudagraph_token_budgets"])
    assert max(graphs["cudagraph_capture_sizes"]) == 1024
    # vLLM's log on an H200: 1.07 GiB with these graphs, where it was alone on the card.
    assert with_graphs.memory_mib.cuda_graphs == pytest.approx(1096, rel=0.03)
    assert with_graphs.memory_mib.fragmentation == without.memory_mib.fragmentation + 200
    assert with_graphs.capacity.kv_tokens < without.capacity.kv_tokens
    # Who waits alone for the first word has a small card.
    assert "cudagraph_mm_encoder" not in _compilation(plan_of("rtx3060", AWQ, h200))


def test_graphs_of_pictures_are_planned_as_the_user_says_and_given_up_first() -> None:
    h200 = with_card("NVIDIA H200", 143_771, capability="9.0")
    asked = {"compilation_config": {"cudagraph_mm_encoder": True, "encoder_cudagraph_token_budgets": [1024, 2048]}}
    plan = plan_of("rtx4090", AWQ, user_args=asked)
    assert _compilation(plan)["encoder_cudagraph_token_budgets"] == [1024, 2048]
    assert plan.memory_mib.cuda_graphs > plan_of("rtx4090", AWQ).memory_mib.cuda_graphs + 200
    small = {"compilation_config": {"cudagraph_mm_encoder": True, "encoder_cudagraph_token_budgets": [8, 64]}}
    assert _compilation(plan_of("rtx4090", AWQ, user_args=small))["encoder_cudagraph_max_vision_items_per_batch"] == 8
    with pytest.raises(UsageError, match="`encoder_cudagraph_token_budgets` is"):
        plan_of("rtx4090", AWQ, user_args={"compilation_config": {"encoder_cudagraph_token_budgets": ["many"]}})
    refused = plan_of("rtx4090", AWQ, h200, user_args={"compilation_config": {"cudagraph_mm_encoder": False}})
    assert "encoder_cudagraph_token_budgets" not in _compilation(refused)
    eager = plan_of("rtx4090", AWQ, h200, user_args={"enforce_eager": True})
    assert eager.memory_mib.cuda_graphs == 0
    tight = plan_of("rtx4090", AWQ, h200, gpu_memory_mib=8_600)
    assert tight.fits
    assert tight.given_up[0] == "CUDA graphs of pictures and prompts (their first token comes later)"


def test_answers_come_in_larger_pieces_where_many_share_a_fast_card() -> None:
    intervals = {name: plan_of(name, AWQ).engine_args.get("stream_interval") for name in ("rtx3060", "rtx4090")}
    assert intervals == {"rtx3060": None, "rtx4090": 4}
    assert "Streams" not in describe_plan(plan_of("rtx4090", AWQ, user_args={"stream_interval": 1}))
    said = describe_plan(plan_of("rtx4090", AWQ, with_card("NVIDIA H200", 143_771, capability="9.0")))
    assert "Streams: 4 tokens an event" in said
    assert "CUDA graphs of pictures too, of 256 to 4,096 tokens a step" in said
