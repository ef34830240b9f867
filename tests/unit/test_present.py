"""The card that is here: whose profile it is, how much of it is left to plan with, and whether what is planned can start."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError, HardwareError
from serving.machine.hardware import driver_too_old, visible
from serving.planning.describe import describe_plan
from serving.planning.present import auto_profile, check_hardware
from tests.unit.test_plan import CARDS, NO_GPU, PROFILES, plan_of, subject_of, with_card


@given(st.sampled_from(CARDS), st.integers(0, 24_564), st.none() | st.integers(1, 24_564))
def test_what_other_programs_hold_is_never_planned_with(card: str, used_mib: int, told_mib: int | None) -> None:
    present = with_card("NVIDIA GeForce RTX 4090", 24_564, used_mib)
    plan = plan_of(card, hardware=present, gpu_memory_mib=told_mib)
    alone = plan_of(card, hardware=with_card("NVIDIA GeForce RTX 4090", 24_564), gpu_memory_mib=told_mib)
    assert plan.gpu.usable_mib + plan.gpu.taken_mib == alone.gpu.usable_mib
    assert alone.fits >= plan.fits
    if plan.gpu.total_mib > 24_564 * 1.05:
        return  # a card that is not here is planned as if it were empty
    if plan.fits:
        assert plan.memory_mib.total <= present.gpus[0].free_mib
        check_hardware(card, PROFILES[card], present, plan)
    if plan.gpu.taken_mib:
        held = f"{plan.gpu.taken_mib:,} MiB"
        assert any(held in said for said in plan.given_up)
        assert held in describe_plan(plan)


def test_what_other_programs_hold_now_counts_on_the_card_that_is_here() -> None:
    free, taken = (
        plan_of("rtx4090", hardware=with_card("NVIDIA GeForce RTX 4090", 24_564, used)) for used in (300, 4000)
    )
    assert free.gpu.usable_mib == 24_564 - 900  # never less than a desktop is likely to take
    assert taken.gpu.usable_mib == 24_564 - 4000
    assert taken.capacity.kv_tokens < free.capacity.kv_tokens


def test_the_fraction_of_memory_is_one_of_the_card_that_is_present() -> None:
    plan = plan_of(hardware=with_card("NVIDIA H200", 143_771))
    assert plan.gpu.total_mib == 12_288
    wanted = plan.memory_mib.total - plan.memory_mib.headroom - plan.memory_mib.context
    assert plan.engine_args["gpu_memory_utilization"] == pytest.approx(wanted / 143_771, abs=1e-4)
    assert "gpu_memory_utilization" not in plan_of().engine_args


def test_a_fraction_that_the_user_gives_is_one_of_the_card_that_is_present_too() -> None:
    share = {"gpu_memory_utilization": 0.08}
    assert plan_of(hardware=with_card("NVIDIA H200", 143_771), user_args=share).gpu.usable_mib == 11_501
    assert plan_of(user_args=share).gpu.usable_mib == 983


def test_a_share_that_the_user_gives_need_not_be_free_as_a_whole() -> None:
    """vLLM refuses to start where less than `gpu_memory_utilization` of the card is free: a browser is enough for that."""
    card = with_card("NVIDIA GeForce RTX 3060", 12_288, used_mib=1_500)
    plan = plan_of(hardware=card, user_args={"gpu_memory_utilization": 0.95})
    assert plan.fits
    assert plan.engine_args["gpu_memory_utilization"] * 12_288 < 12_288 - 1_500


@pytest.mark.parametrize(
    ("card", "total_mib", "profile"),
    [
        ("NVIDIA GeForce RTX 3060", 12_288, "rtx3060"),
        ("NVIDIA GeForce RTX 4060 Ti", 16_380, "rtx4060ti"),
        ("NVIDIA GeForce RTX 4060 Ti", 8_188, "rtx4060ti-8g"),
        ("NVIDIA GeForce RTX 4090", 24_564, "rtx4090"),
        ("NVIDIA GeForce RTX 4090", 24_200, "rtx4090"),
    ],
)
def test_auto_takes_the_profile_of_the_card(card: str, total_mib: int, profile: str) -> None:
    assert auto_profile(PROFILES, with_card(card, total_mib)) == (profile, PROFILES[profile])


@pytest.mark.parametrize(
    ("card", "total_mib", "like"),
    [
        ("NVIDIA GeForce RTX 4070", 12_282, "rtx3060"),
        ("NVIDIA H200", 143_771, "rtx5090"),
        ("NVIDIA T600", 4096, "rtx4060"),
    ],
)
def test_auto_plans_for_a_card_that_no_profile_names(card: str, total_mib: int, like: str) -> None:
    hardware = with_card(card, total_mib, used_mib=100)
    name, profile = auto_profile(PROFILES, hardware)
    assert name == "auto"
    assert profile.gpu is not None
    assert (profile.gpu.names, profile.gpu.memory_mib, profile.gpu.bandwidth_gb_s) == ((card,), total_mib, 500.0)
    assert profile.limits.max_images_per_request == PROFILES[like].limits.max_images_per_request
    plan = replace(subject_of(hardware=hardware), profile=profile, profile_name=name).plan()
    assert plan.gpu.usable_mib == total_mib - 100
    assert plan.fits == (total_mib > 8000)


def test_auto_serves_the_demo_without_a_gpu() -> None:
    assert auto_profile(PROFILES, NO_GPU) == ("cpu", PROFILES["cpu"])


def test_auto_without_the_profile_that_it_needs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds no cpu\.yaml"):
        auto_profile({}, NO_GPU)
    with pytest.raises(ConfigError, match="holds no profile of a GPU"):
        auto_profile({"cpu": PROFILES["cpu"]}, with_card("NVIDIA GeForce RTX 3060", 12_288))


def test_a_card_that_is_smaller_or_older_than_planned_for_is_refused_before_anything_is_loaded() -> None:
    small = with_card("NVIDIA GeForce RTX 3060", 12_288)
    with pytest.raises(HardwareError, match=r"for a card of 24,564 MiB.*has 12,288.*PROFILE=auto"):
        check_hardware("rtx4090", PROFILES["rtx4090"], small, plan_of("rtx4090", hardware=small))
    old = with_card("NVIDIA GeForce GTX 1080", 12_288, capability="6.1")
    with pytest.raises(HardwareError, match=r"compute capability 6\.1"):
        check_hardware("rtx3060", PROFILES["rtx3060"], old, plan_of(hardware=old))


def test_a_gpu_profile_without_a_gpu_is_planned_and_not_started() -> None:
    plan = plan_of()
    assert plan.gpu.name == "NVIDIA GeForce RTX 3060"
    with pytest.raises(HardwareError, match=r"no driver.*PROFILE=cpu") as caught:
        check_hardware("rtx3060", PROFILES["rtx3060"], NO_GPU, plan)
    assert caught.value.exit_code == 7
    check_hardware("cpu", PROFILES["cpu"], NO_GPU, plan_of("cpu"))


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("", []), ("-1", []), ("1,7,0", [1]),
        ("GPU-b2", [1]), ("GPU-", []), ("GPU-c3,GPU-a1", [2, 0]),
    ],
)  # fmt: skip
def test_the_gpu_is_the_one_that_cuda_shows(told: str | None, seen: list[int]) -> None:
    assert visible(told, ["GPU-a1", "GPU-b2", "GPU-c3"]) == seen


@pytest.mark.parametrize(
    ("version", "old"), [("580.65.06", False), ("610.1", False), ("550.90.07", True), ("579", True), (None, False)]
)
def test_the_driver_that_cuda_13_needs(version: str | None, old: bool) -> None:
    assert driver_too_old(version) is old
