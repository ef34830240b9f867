"""The plan: what holds for every card and model, and the figures of Qwen3-VL-2B and of the built-in model."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import memory
from serving.checkpoint import Checkpoint, read_checkpoint
from serving.describe import describe_plan
from serving.errors import CheckpointError, HardwareError, UsageError
from serving.files import Folder
from serving.hardware import Gpu, Hardware, driver_too_old
from serving.hub import resolve_model
from serving.memory import MIB
from serving.plan import Plan, auto_profile, check_hardware, make_plan
from serving.profile import load_models, load_profiles

PROFILES, MODELS = load_profiles(), load_models()
CARDS = [name for name, profile in PROFILES.items() if profile.device == "cuda"]
NO_GPU = Hardware(gpus=(), driver_version=None, nvml_problem="no driver", ram_mib=24_000, cpu_count=2, wsl=False)
# Of the published config.json and preprocessor_config.json of Qwen/Qwen3-VL-2B-Instruct.
QWEN = Checkpoint(
    architecture="Qwen3VLForConditionalGeneration",
    config={
        "text_config": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048, "patch_size": 16,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
    weight_bytes=None,
    vision_weight_bytes=0,
    min_pixels=65_536,
    max_pixels=16_777_216,
)  # fmt: skip


def with_card(name: str, total_mib: int, used_mib: int = 0) -> Hardware:
    card = Gpu(0, name, total_mib, used_mib, "8.9")
    return replace(NO_GPU, gpus=(card,), driver_version="580.95.05", nvml_problem=None)


def plan_of(
    profile: str = "rtx3060", checkpoint: Checkpoint = QWEN, hardware: Hardware = NO_GPU, **options: Any
) -> Plan:
    model = options.pop("model", "qwen3-vl-2b")
    return make_plan(
        profile_name=profile, profile=PROFILES[profile], model_name=model, model=MODELS[model], checkpoint=checkpoint,
        hardware=hardware, **options,
    )  # fmt: skip


def test_the_sizes_of_qwen3_vl_2b() -> None:
    assert memory.kv_bytes_per_token(QWEN) == 112 * 1024
    assert 1024 * 768 // memory.pixels_per_token(QWEN) == 768
    assert memory.weight_bytes(QWEN) == 2 * 2_127_532_032  # parameters that the model's page on the hub names


def test_the_size_without_weights_is_that_of_the_weights_when_they_come() -> None:
    demo = read_checkpoint(Folder(resolve_model("demo").folder))
    assert demo.weight_bytes is not None
    assert memory.weight_bytes(replace(demo, weight_bytes=None)) == demo.weight_bytes


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
    plan = plan_of(card)
    assert plan.fits
    assert plan.reason is None
    assert plan.capacity.kv_tokens >= plan.capacity.max_model_len


_MEMORY = st.integers(1, 100_000)
_WEIGHTS = st.none() | st.integers(1, 40_000 * MIB)
_USER = st.fixed_dictionaries(
    {},
    optional={"max_model_len": st.integers(1, 300_000), "kv_cache_memory_bytes": st.integers(1, 50_000 * MIB)},
)


@given(st.sampled_from(sorted(PROFILES)), _MEMORY, _WEIGHTS, _USER)
def test_the_parts_sum_to_the_total_and_a_plan_that_fits_is_within_the_card(
    profile: str, mib: int, weights: int | None, user: dict[str, int]
) -> None:
    plan = plan_of(profile, replace(QWEN, weight_bytes=weights), gpu_memory_mib=mib, user_args=user)
    parts = plan.memory_mib.model_dump()
    assert parts.pop("total") == sum(parts.values())
    assert min(parts.values()) >= 0
    assert 0 <= plan.gpu.usable_mib <= plan.gpu.total_mib == mib
    assert plan.fits == (plan.reason is None)
    if plan.fits:
        assert plan.memory_mib.total <= plan.gpu.usable_mib
        assert plan.capacity.kv_tokens >= plan.capacity.max_model_len
    assert str(plan.capacity.max_num_seqs) in describe_plan(plan)


@given(st.sampled_from(sorted(PROFILES)), _MEMORY, st.integers(0, 50_000), _WEIGHTS, _USER)
def test_more_memory_never_means_fewer_tokens_and_what_fits_still_fits(
    profile: str, mib: int, more: int, weights: int | None, user: dict[str, int]
) -> None:
    checkpoint = replace(QWEN, weight_bytes=weights)
    small = plan_of(profile, checkpoint, gpu_memory_mib=mib, user_args=user)
    large = plan_of(profile, checkpoint, gpu_memory_mib=mib + more, user_args=user)
    assert large.capacity.kv_tokens >= small.capacity.kv_tokens
    assert large.fits >= small.fits


@given(st.sampled_from(CARDS), _MEMORY, st.integers(1, 262_144))
def test_the_shorter_context_that_a_refusal_names_fits(card: str, mib: int, wanted: int) -> None:
    plan = plan_of(card, gpu_memory_mib=mib, user_args={"max_model_len": wanted})
    _, named, rest = (plan.reason or "").partition("--max-model-len ")
    if named:
        shorter = int(rest.split()[0])
        assert shorter > 0
        assert plan_of(card, gpu_memory_mib=mib, user_args={"max_model_len": shorter}).fits


@given(st.sampled_from(CARDS), st.integers(0, 24_564))
def test_the_smaller_memory_that_a_refusal_names_is_free(card: str, used_mib: int) -> None:
    present = with_card("NVIDIA GeForce RTX 4090", 24_564, used_mib)
    plan = plan_of(card, hardware=present)
    if plan.memory_mib.total <= present.gpus[0].free_mib:
        check_hardware(card, PROFILES[card], present, plan)
        return
    with pytest.raises(HardwareError, match=f"other programs hold {used_mib:,} MiB") as caught:
        check_hardware(card, PROFILES[card], present, plan)
    _, named, rest = str(caught.value).partition("--gpu-memory-mib ")
    if named:
        smaller = plan_of(card, hardware=present, gpu_memory_mib=int(rest.rstrip(".")))
        assert smaller.memory_mib.kv_cache > 0
        check_hardware(card, PROFILES[card], present, smaller)


def test_a_card_that_is_too_small_is_told_what_takes_the_room() -> None:
    plan = plan_of(gpu_memory_mib=4096)
    assert not plan.fits
    assert plan.reason is not None
    assert "the weights take 4,058 MiB" in plan.reason
    assert "choose a smaller model" in plan.reason
    assert "It does not fit" in describe_plan(plan)


def test_what_the_user_gives_wins_and_is_planned_with() -> None:
    plan = plan_of(user_args={"max_model_len": "16K", "max_num_seqs": 4, "kv_cache_memory_bytes": "2G", "seed": 7})
    assert (plan.capacity.max_model_len, plan.capacity.max_num_seqs) == (16_384, 4)
    assert (plan.memory_mib.kv_cache, plan.capacity.kv_tokens) == (2048, 2**31 // (112 * 1024))
    assert (plan.engine_args["max_model_len"], plan.engine_args["seed"]) == (16_384, 7)


@pytest.mark.parametrize("value", ["auto", 0, True, "much", [8192, "-tp"]])
def test_a_context_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match="--max-model-len"):
        plan_of(user_args={"max_model_len": value})


def test_the_context_is_the_models_own_where_that_is_shorter() -> None:
    text = QWEN.text_config | {"max_position_embeddings": 2048}
    short = replace(QWEN, config=QWEN.config | {"text_config": text})
    assert plan_of(checkpoint=short).capacity.max_model_len == 2048


def test_pictures_are_bounded_by_the_profile_and_by_the_models_processor() -> None:
    plan = plan_of()
    assert plan.engine_args["mm_processor_kwargs"] == {"size": {"shortest_edge": 65_536, "longest_edge": 1_228_800}}
    assert plan.capacity.image_tokens == 1_228_800 // 1024
    small = plan_of(checkpoint=replace(QWEN, max_pixels=50_176))
    assert small.limits.max_image_pixels == 50_176
    # A shortest edge above the longest would make every picture an error.
    assert small.engine_args["mm_processor_kwargs"] == {"size": {"shortest_edge": 50_176, "longest_edge": 50_176}}


def test_the_recommended_sampling_reaches_vllm_as_vllm_takes_it() -> None:
    sampling = plan_of().engine_args["override_generation_config"]
    assert sampling == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_new_tokens": 4096}
    assert isinstance(sampling["top_k"], int)


def test_the_kernel_for_quantized_weights_is_left_to_vllm() -> None:
    assert "quantization" not in plan_of(model="qwen3-vl-2b-awq").engine_args


def test_the_fraction_of_memory_is_one_of_the_card_that_is_present() -> None:
    plan = plan_of(hardware=with_card("NVIDIA H200", 143_771))
    assert plan.gpu.total_mib == 12_288
    assert plan.engine_args["gpu_memory_utilization"] == pytest.approx(plan.memory_mib.total / 143_771, abs=1e-4)
    assert "gpu_memory_utilization" not in plan_of().engine_args


def test_fewer_bytes_a_token_are_expected_to_be_faster_and_a_cpu_promises_nothing() -> None:
    quantized = replace(QWEN, weight_bytes=1_700_000_000, vision_weight_bytes=600_000_000)
    slow, fast = (plan_of(checkpoint=each).expected for each in (QWEN, quantized))
    assert slow.decode_tokens_per_s is not None
    assert fast.decode_tokens_per_s is not None
    assert 50 < slow.decode_tokens_per_s < 105 < fast.decode_tokens_per_s
    assert "360 GB/s" in slow.source
    assert plan_of("cpu").expected.decode_tokens_per_s is None


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_a_config_without_what_the_plan_needs_is_refused_by_the_key(section: str) -> None:
    for key in QWEN.config[section].keys() - {
        "max_position_embeddings",
        "tie_word_embeddings",
        "deepstack_visual_indexes",
    }:
        rest = {name: value for name, value in QWEN.config[section].items() if name != key}
        with pytest.raises(CheckpointError, match=f"no usable `{key}`"):
            plan_of(checkpoint=replace(QWEN, config=QWEN.config | {section: rest}))


@pytest.mark.parametrize(
    ("card", "total_mib", "profile"),
    [
        ("NVIDIA GeForce RTX 3060", 12_288, "rtx3060"),
        ("NVIDIA GeForce RTX 4060 Ti", 16_380, "rtx4060ti"),
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx4090"),
        ("NVIDIA GeForce RTX 4090", 24_200, "rtx4090"),
        ("NVIDIA GeForce RTX 4070", 12_282, "rtx3060"),
        ("NVIDIA H200", 143_771, "rtx4090"),
    ],
)
def test_auto_takes_the_profile_of_the_card_or_the_largest_that_it_holds(
    card: str, total_mib: int, profile: str
) -> None:
    assert auto_profile(PROFILES, with_card(card, total_mib)) == profile


def test_auto_serves_the_demo_without_a_gpu_and_refuses_a_card_that_is_too_small() -> None:
    assert auto_profile(PROFILES, NO_GPU) == "cpu"
    with pytest.raises(HardwareError, match=r"4,096 MiB.*PROFILE=cpu"):
        auto_profile(PROFILES, with_card("NVIDIA GeForce GTX 1650", 4096))


def test_a_gpu_profile_without_a_gpu_is_planned_and_not_started() -> None:
    plan = plan_of()
    assert plan.gpu.name == "NVIDIA GeForce RTX 3060"
    with pytest.raises(HardwareError, match=r"no driver.*PROFILE=cpu") as caught:
        check_hardware("rtx3060", PROFILES["rtx3060"], NO_GPU, plan)
    assert caught.value.exit_code == 7
    check_hardware("cpu", PROFILES["cpu"], NO_GPU, plan_of("cpu"))


@pytest.mark.parametrize(
    ("version", "old"), [("580.65.06", False), ("610.1", False), ("550.90.07", True), ("579", True), (None, False)]
)
def test_the_driver_that_cuda_13_needs(version: str | None, old: bool) -> None:
    assert driver_too_old(version) is old
