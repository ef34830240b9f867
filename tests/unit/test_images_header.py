"""Formats and sizes read from the first bytes: Pillow's own files, mutilated ones and what is no picture at all."""

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.images.errors import UNREADABLE, HeaderCutOffError, ImageError
from serving.images.header import read_header
from serving.images.limits import check_size

SIDES = st.integers(1, 600)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@given(width=SIDES, height=SIDES, kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
@settings(deadline=None, max_examples=60)
def test_size_and_format_as_pillow_wrote_them(width: int, height: int, kind: str) -> None:
    header = read_header(encoded(Image.new("RGB", (width, height), "red"), kind))
    assert (header.format, header.width, header.height) == (kind, width, height)
    assert header.pixels == width * height


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"x" * 60_000, "icc_profile": b"y" * 200_000}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*"}),  # makes it an extended file
        ("GIF", {"comment": b"c" * 1000}),
    ],
)
def test_every_kind_of_header(kind: str, options: dict[str, object]) -> None:
    header = read_header(encoded(Image.new("RGB", (123, 45)), kind, **options))
    assert (header.format, header.width, header.height) == (kind, 123, 45)


def test_animated_files_tell_the_size_of_the_canvas() -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        header = read_header(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert (header.width, header.height) == (40, 30)


def test_a_gif_frame_beyond_its_screen_counts() -> None:
    """Pillow decodes the frame whole: a screen of 1×1 must not hide one of 60,000×60,000."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0)
    header = read_header(b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame)
    assert (header.width, header.height) == (60_000, 60_000)


def test_a_long_beginning_may_be_asked_for_in_pieces() -> None:
    data = encoded(Image.new("RGB", (123, 45)), "JPEG", icc_profile=b"y" * 200_000)
    with pytest.raises(HeaderCutOffError):
        read_header(data[: 64 * 1024])
    assert read_header(data).width == 123


@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), length=st.integers(0, 60), noise=st.binary(max_size=40))
@settings(deadline=None, max_examples=300)
def test_whatever_comes_it_is_a_header_or_refused(kind: str, length: int, noise: bytes) -> None:
    """Cut anywhere and continued with anything: never another exception."""
    beginning = encoded(Image.new("RGB", (64, 64)), kind)[:length]
    try:
        refusal = None if read_header(beginning + noise).pixels > 0 else "a header without pixels"
    except ImageError as error:
        refusal = str(error)
    assert refusal in (None, UNREADABLE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, I am text",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"SIMPLE  =                    T",  # FITS
        b"8BPS\0\1",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x18ftypheic",
        b"\0\0\0\x1cftypavif",
        b"BM\x3a\0\0\0",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"RIFF\0\0\0\0WEBPALPH",
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIDAT" + b"\0" * 8,
        b"\xff\xd8\xff\xda\0\x04\0\0",
        b"GIF89a\x01\0\x01\0\0\0\0;",
        png_header(0, 100),
        png_header(100, 0),
    ],
)
def test_everything_else_is_refused_by_the_same_sentence(data: bytes) -> None:
    with pytest.raises(ImageError, match="send a whole JPEG, PNG, WebP or GIF") as refusal:
        read_header(data)
    assert not str(refusal.value).startswith("b'")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (4032, 3024), (8160, 6144), (200, 1), (30_000, 2000)])
def test_sizes_that_are_served(width: int, height: int) -> None:
    check_size(width, height)


@pytest.mark.parametrize(
    ("width", "height", "says"),
    [
        (20_000, 20_000, "64 megapixels"),
        (13_000, 13_000, "64 megapixels"),
        (2**31 - 1, 1, "64 megapixels"),
        (40_000, 1000, "32,768"),
        (1, 10_000, "200 times"),
        (10_000, 1, "200 times"),
        (0, 5, "nothing to see"),
    ],
)
def test_sizes_that_are_refused_say_which_and_why(width: int, height: int, says: str) -> None:
    with pytest.raises(ImageError, match=says) as refusal:
        check_size(width, height)
    assert f"{width}×{height}" in str(refusal.value)
