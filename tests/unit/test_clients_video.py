"""Videos as frames: which moments are seen, how many, and what is said where there can be none."""

import base64
import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from clients import Client, PictureError
from clients.limits import Limits, limits_of
from clients.messages import messages
from clients.video import frames
from tests import drawing
from tests.conftest import ONECARD
from tests.stand_in.model import model_that_says

ROOT = Path(__file__).parents[2]
COLORS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def film(file: Path, colors: list[str], codec: str = "mpeg4") -> Path:
    """Ten frames a second, each colour for one second."""
    return shot(file, [drawing.blank(320, 240, color) for color in colors], codec)


def shot(file: Path, scenes: list[Image.Image], codec: str = "mpeg4") -> Path:
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for scene in scenes:
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame.from_image(scene)))
        container.mux(stream.encode(None))
    return file


def named(data: bytes) -> str:
    """The colour of a frame."""
    pixel: Any = Image.open(io.BytesIO(data)).getpixel((40, 40))
    return min(COLORS, key=lambda name: sum(abs(a - b) for a, b in zip(COLORS[name], pixel, strict=True)))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.mov", "mpeg4"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")]
)
def test_frames_are_evenly_spaced_and_know_their_times(tmp_path: Path, name: str, codec: str) -> None:
    clip = film(tmp_path / name, list(COLORS), codec)
    seen = frames(clip, 4, max_pixels=20_000)
    assert [named(frame.jpeg) for frame in seen] == list(COLORS)
    assert [frame.label for frame in seen] == [f"<{second}.5 seconds>" for second in range(4)]
    width, height = Image.open(io.BytesIO(seen[0].jpeg)).size
    assert 18_000 < width * height <= 20_000
    assert [named(frame.jpeg) for frame in frames(clip, 1)] == ["blue"]  # the middle of all


def test_a_film_of_a_telephone_that_was_held_upright_is_seen_upright(tmp_path: Path) -> None:
    scene = drawing.blank(320, 240, "blue")
    scene.paste((255, 0, 0), (0, 0, 160, 240))
    clip = shot(tmp_path / "a.mp4", [scene])
    data = bytearray(clip.read_bytes())
    # The matrix of the track header (ISO 14496-12, 8.3.2): a quarter turn clockwise, in fixed point of 16 and 30 bits.
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 240 << 16, 0, 1 << 30)
    place = data.index(b"tkhd") + 44
    data[place : place + len(matrix)] = matrix
    clip.write_bytes(data)
    (frame,) = frames(clip, 1)
    image = Image.open(io.BytesIO(frame.jpeg))
    assert image.size == (240, 320)
    upper, lower = (image.crop((0, y, 240, y + 160)) for y in (0, 160))
    assert (named(drawing.encoded(upper)), named(drawing.encoded(lower))) == ("red", "blue")


def test_a_clip_of_few_frames_gives_each_once(tmp_path: Path) -> None:
    seen = frames(film(tmp_path / "a.mp4", ["red"]), 50)
    assert len(seen) == 10
    assert len({frame.seconds for frame in seen}) == 10


def test_a_video_is_sent_as_pictures_after_their_times(tmp_path: Path) -> None:
    clip, photo = film(tmp_path / "a.mp4", list(COLORS)), drawing.blank(32, 32)
    limits = Limits(max_pictures=5, max_frames=4, max_frame_pixels=10_000)
    (message,) = messages([photo, str(clip)], "What happens?", limits)
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["image_url", *["text", "image_url"] * 4, "text"]
    assert message["content"][1]["text"] == "<0.5 seconds>"
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert [named(base64.b64decode(url.partition(",")[2])) for url in urls[1:]] == list(COLORS)
    (message,) = messages([str(clip), clip], None, limits)  # five pictures are two frames of each
    assert len(message["content"]) == 2 * 2 * 2
    with pytest.raises(PictureError, match="takes 1 in a request"):
        messages([photo, clip], "?", Limits(max_pictures=1, max_frames=4))


def test_limits_tell_of_frames() -> None:
    limits = limits_of({"limits": {"max_video_frames": 8, "max_video_frame_pixels": 1000}})
    assert (limits.max_frames, limits.max_frame_pixels) == (8, 1000)
    assert limits_of({"limits": {"max_video_frames": 0}}).max_frames == 0


def test_the_limits_are_read_by_the_names_that_a_plan_gives_them(tmp_path: Path) -> None:
    profile = (ROOT / "configs" / "profiles" / "cpu.yaml").read_text("utf-8")
    (tmp_path / "mine.yaml").write_text(f"{profile}video:\n  max_frames: 6\n  max_frame_pixels: 65536\n")
    command = [*ONECARD, "plan", "--profile", str(tmp_path / "mine.yaml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    limits = limits_of({"limits": json.loads(done.stdout)["limits"]})
    assert (limits.max_frames, limits.max_frame_pixels) == (6, 65536)
    assert limits.max_pictures is not None
    assert limits.max_pictures >= 6


def test_a_server_without_video_is_told_with_the_key_of_the_profile(tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", ["red"])
    for status in (None, {"limits": {"max_images_per_request": 4, "max_video_frames": 0}}):
        with model_that_says("Red.", status=status) as model, Client(model.url) as client:
            with pytest.raises(PictureError, match="`video` in the profile"):
                client.ask(clip, "What happens?")
            assert model.requests == []


def test_what_is_no_video_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"#EXTM3U\nhttp://127.0.0.1/secret.ts\n")
    with pytest.raises(PictureError, match=r"a\.mp4 cannot be read as a video"):
        frames(tmp_path / "a.mp4", 2)
    with pytest.raises(FileNotFoundError):
        frames(tmp_path / "none.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(PictureError, match=r"onecard\[video\]"):
        frames(film(tmp_path / "b.mp4", ["red"]), 2)


def test_a_video_on_the_command_line(tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", list(COLORS))
    status = {"limits": {"max_images_per_request": 8, "max_video_frames": 4}}
    with model_that_says("It changes its colour.", status=status) as model:
        done = subprocess.run(
            [*ONECARD, "support", "clip.mp4", "It flickers", "--url", model.url],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1  # what it says is no ticket
        content = model.requests[0]["messages"][1]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 4 + ["text"]
