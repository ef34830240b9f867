"""Video as frames that the client sends as pictures: what is promised fits the conversation, the request and the card."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.planning.describe import describe_plan
from serving.planning.plan import Plan
from serving.planning.profile import Video, load_profile
from serving.planning.video import ROOM_TOKENS, Frames
from tests.unit.test_plan import CARDS, PROFILES, subject_of


def plan_of(
    frames: int, pixels: int, profile: str = "rtx3060", user: dict[str, Any] | None = None, **more: Any
) -> Plan:
    subject = subject_of(profile, **more)
    video = Video(max_frames=frames, max_frame_pixels=pixels)
    return replace(subject, profile=subject.profile.model_copy(update={"video": video})).plan(user)


def tokens(width: int, height: int) -> int:
    """Of one picture whose sides the processor rounds to whole tokens of 32 pixels, with its two marks."""
    return max(1, round(width / 32)) * max(1, round(height / 32)) + 2


def test_off_by_default_and_said_what_would_fit() -> None:
    plan = subject_of("rtx3060").plan()
    assert (plan.limits.max_video_frames, plan.limits.max_video_frame_pixels) == (0, 0)
    assert "Video: off. With `video` in the profile, 33 frames of 196,608 pixels fit a conversation of 8,192" in (
        describe_plan(plan)
    )


def test_a_video_gets_a_longer_conversation_and_as_many_pictures_a_request() -> None:
    plan = plan_of(64, 512 * 384)
    assert plan.fits
    assert (plan.limits.max_video_frames, plan.limits.max_images_per_request) == (64, 64)
    assert plan.engine_args["limit_mm_per_prompt"] == {"image": 64, "video": 0}
    assert plan.capacity.max_model_len == plan.engine_args["max_model_len"] > PROFILES["rtx3060"].context
    assert plan.memory_mib == subject_of("rtx3060").plan().memory_mib  # frames go through the encoder as pictures do
    assert "up to 64 frames of 196,608 pixels" in describe_plan(plan)


def test_a_video_that_is_too_long_is_made_shorter_and_takes_nothing_from_the_rest() -> None:
    plan = plan_of(1000, 512 * 384)
    assert plan.fits
    assert 0 < plan.limits.max_video_frames < 1000
    assert plan.limits.max_images_per_request == plan.limits.max_video_frames
    assert plan.given_up == (f"{plan.limits.max_video_frames} instead of 1000 frames of a video",)


@pytest.mark.parametrize(
    ("user", "most"), [({"max_model_len": 4096}, 14), ({"limit_mm_per_prompt": {"image": 3}}, 3), ({}, 64)]
)
def test_what_the_user_fixed_bounds_the_frames(user: dict[str, Any], most: int) -> None:
    assert plan_of(64, 512 * 384, user=user).limits.max_video_frames == most


@given(
    st.sampled_from(CARDS),
    st.integers(1, 1000),
    st.integers(1024, 4_000_000),
    st.integers(2000, 40_000),
    st.fixed_dictionaries({}, optional={"max_model_len": st.integers(512, 100_000)}),
)
def test_the_frames_that_are_promised_fit(card: str, frames: int, pixels: int, mib: int, user: dict[str, int]) -> None:
    plan = plan_of(frames, pixels, card, user, gpu_memory_mib=mib)
    limits = plan.limits
    assert limits.max_video_frames <= min(frames, limits.max_images_per_request)
    assert limits.max_video_frame_pixels <= limits.max_image_pixels
    if limits.max_video_frames:
        each = Frames(limits.max_video_frame_pixels, 1024).tokens
        assert limits.max_video_frames * each + ROOM_TOKENS <= plan.capacity.max_model_len
    without = subject_of(card, gpu_memory_mib=mib).plan(user)
    assert plan.fits == without.fits
    assert plan.memory_mib == without.memory_mib


@given(st.integers(64, 4000), st.floats(0.25, 4))
def test_a_frame_takes_no_more_tokens_than_are_counted(width: int, ratio: float) -> None:
    height = max(32, math.floor(width / ratio))
    assert width / height > 4 or height / width > 4 or tokens(width, height) <= Frames(width * height, 1024).tokens


@pytest.mark.parametrize("video", ["{max_frames: 0, max_frame_pixels: 4096}", "{max_frames: 8}", "{frames: 8}", "8"])
def test_a_video_that_makes_no_sense_is_refused(tmp_path: Path, video: str) -> None:
    shipped = (Path(__file__).parents[2] / "configs" / "profiles" / "cpu.yaml").read_text("utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(f"{shipped}video: {video}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="video"):
        load_profile(str(file))
