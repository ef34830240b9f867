"""Colours, frames and orientations as a person sees them, and everything that cannot be decoded whole."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from serving.images.decode import decode
from serving.images.errors import UNREADABLE, ImageError
from serving.images.fit import fit
from serving.images.header import read_header
from tests.drawing import encoded

RED, GREEN, BLUE, WHITE, BLACK, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3, (128,) * 3


def decoded(data: bytes) -> Image.Image:
    pixels, _ = decode(data, read_header(data))
    return Image.fromarray(pixels)


def colour(data: bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    pixel = decoded(data).getpixel((x, y))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for what Pillow does not write. `rows` are unfiltered, without their filter bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[at : at + stride] for at in range(0, len(rows), stride))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def near(seen: tuple[int, ...], meant: tuple[int, ...], by: int = 6) -> bool:
    return all(abs(a - b) <= by for a, b in zip(seen, meant, strict=True))


def test_cmyk_jpeg() -> None:
    """Row 27: Adobe's inverted CMYK, as every CMYK JPEG in the wild."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(image, "JPEG", quality=95)
    assert near(colour(data), RED)
    smaller, _ = decode(data, read_header(data), at_least=(4, 4))
    assert smaller.shape == (4, 4, 3)
    assert near(tuple(smaller[0, 0].tolist()), RED)


def test_grey_jpeg() -> None:
    assert near(colour(encoded(Image.new("L", (16, 16), 128), "JPEG")), GREY)


def test_palette_with_alpha() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    data = encoded(image, "PNG", transparency=bytes([0, 255]))  # type: ignore[arg-type]
    assert (colour(data, 0), colour(data, 1)) == (WHITE, BLUE)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes(bits: int) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    assert colour(encoded(image, "PNG", bits=bits)) == GREEN


def test_grey_with_alpha() -> None:
    half = encoded(Image.new("LA", (2, 2), (0, 128)), "PNG")
    assert near(colour(half), (127,) * 3, by=1)
    assert colour(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG")) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_colour_with_alpha_lies_on_white(kind: str) -> None:
    data = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 128)), kind)
    assert near(colour(data), (255, 127, 127))


def test_a_colour_declared_transparent() -> None:
    data = encoded(Image.new("RGB", (2, 2), RED), "PNG", transparency=RED)  # type: ignore[arg-type]
    assert colour(data) == WHITE


@pytest.mark.parametrize(("ink", "seen"), [(0, BLACK), (1, WHITE)])
def test_one_bit(ink: int, seen: tuple[int, ...]) -> None:
    assert colour(encoded(Image.new("1", (9, 9), ink), "PNG")) == seen


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    """Row 28: Pillow's own conversion, and so plain vLLM's, makes all but the darkest 1/256 white."""
    data = png(4, 1, 16, 0, words(0, 0x4000, 0x8000, 0xFFFF))
    assert [colour(data, x)[0] for x in range(4)] == [0, 0x40, 0x80, 0xFF]


def test_sixteen_bit_colour_and_alpha() -> None:
    assert colour(png(1, 1, 16, 2, words(0xFFFF, 0x8000, 0))) == (255, 128, 0)
    assert colour(png(1, 1, 16, 6, words(0xFFFF, 0, 0, 0))) == WHITE
    assert colour(png(1, 1, 16, 4, words(0x8000, 0xFFFF))) == GREY


def test_sixteen_bit_grey_with_a_transparent_tone() -> None:
    data = png(2, 1, 16, 0, words(0x1234, 0x4000), (b"tRNS", words(0x1234)))
    assert (colour(data, 0), colour(data, 1)) == (WHITE, (0x40,) * 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), tone) for tone in ("red", "blue", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])  # type: ignore[arg-type]
    assert near(colour(data), RED)


def test_a_gif_with_a_transparent_ground() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((3, 3), (255, 0, 0, 255))
    data = encoded(image, "GIF")
    assert (colour(data), colour(data, 3, 3)) == (WHITE, RED)


def corner() -> Image.Image:
    """Not symmetric in any way: a red upper left corner, a blue bar below."""
    image = Image.new("RGB", (64, 32), "white")
    image.paste("red", (0, 0, 16, 8))
    image.paste("blue", (0, 24, 64, 32))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    """Row 30, with Pillow's own transposition as the judge."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(corner(), kind, exif=exif.tobytes())  # type: ignore[arg-type]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    seen = fit(data, read_header(data), None)
    assert isinstance(seen, Image.Image)
    assert np.array_equal(np.asarray(seen), np.asarray(upright))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of it, which is an error in these tests only
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_broken_exif_is_no_reason_to_refuse(exif: bytes) -> None:
    data = encoded(corner(), "JPEG", exif=exif)  # type: ignore[arg-type]
    _, orientation = decode(data, read_header(data))
    assert orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated(kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError) as refusal:
        decoded(data[: int(kept * len(data))])
    assert str(refusal.value) == UNREADABLE


def test_a_jpeg_of_very_many_scans() -> None:
    """Each scan is a pass over the whole picture for a few bytes."""
    data = encoded(corner(), "JPEG", progressive=True)
    with pytest.raises(ImageError) as refusal:
        decoded(data[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 1000 + data[-2:])
    assert "scans" in refusal.value.cause


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]),
    holes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=20),
)
@settings(deadline=None, max_examples=150)
def test_mutilated_files_are_decoded_or_refused(kind: str, holes: list[tuple[float, int]]) -> None:
    """Never another exception than the client's."""
    data = bytearray(encoded(corner(), kind))
    for place, value in holes:
        data[int(place * len(data))] = value
    try:
        header = read_header(bytes(data))
        outcome = header.pixels > 1_000_000 or decode(bytes(data), header)[0].shape[2] == 3
    except ImageError as error:
        outcome = str(error) == UNREADABLE
    assert outcome
