"""What the model sees is what the reference processor would have shown it: the same grid, all but the same pixels."""

import asyncio
import base64
import io
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from serving.images.errors import ImageError
from serving.images.fit import fit
from serving.images.grid import Grid
from serving.images.header import read_header
from serving.images.kept import Kept, Picture
from serving.images.limits import MAX_RATIO, check_size
from serving.images.workshop import Workshop
from tests.drawing import encoded
from tests.unit.test_images_decode import png

QWEN3 = Grid(32, min_pixels=65_536, max_pixels=1_228_800)
QWEN2 = Grid(28, min_pixels=56 * 56, max_pixels=1_003_520)
DEMO = Grid(32, min_pixels=65_536, max_pixels=102_400)
GRIDS = st.sampled_from([QWEN3, QWEN2, DEMO])
SIDES = st.one_of(st.integers(1, 400), st.integers(1, 9000))


def processor(grid: Grid) -> Any:
    """The reference, told the same bounds as vLLM tells it."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    size = {"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels}
    return Qwen2VLImageProcessor(patch_size=grid.side // 2, merge_size=2, size=size)


def reference(data: bytes, grid: Grid) -> np.ndarray[Any, Any]:
    """(3, height, width) as the reference resizes the whole picture."""
    from torchvision.transforms.v2 import functional
    from transformers.image_utils import SizeDict

    whole = functional.pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
    size = SizeDict(shortest_edge=grid.min_pixels, longest_edge=grid.max_pixels)
    resized = processor(grid).resize(whole, size, functional.InterpolationMode.BICUBIC, factor=grid.side)
    return np.asarray(resized)


def fitted(data: bytes, grid: Grid) -> np.ndarray[Any, Any]:
    pixels = fit(data, read_header(data), grid)
    assert isinstance(pixels, np.ndarray)
    return pixels


def text_page(width: int, height: int, size: int) -> Image.Image:
    """A page full of print: what loses most by a careless resize."""
    line = Image.new("RGB", (width, int(size * 1.3)), "white")
    words = "The quick brown fox jumps over the lazy dog 0123456789 " * (width // (size * 20) + 1)
    ImageDraw.Draw(line).text((8, 0), words, fill="black", font=ImageFont.load_default(size))
    page = Image.new("RGB", (width, height), "white")
    for y in range(0, height, line.height):
        page.paste(line, (0, y))
    return page


def photograph(width: int, height: int) -> Image.Image:
    from skimage import data

    return Image.fromarray(data.astronaut()).resize((width, height), Image.Resampling.LANCZOS)


@given(width=SIDES, height=SIDES, grid=GRIDS)
@example(width=1, height=1, grid=QWEN3)
@example(width=4000, height=158, grid=DEMO)
@example(width=20_000, height=100, grid=DEMO)
@settings(deadline=None, max_examples=500)
def test_the_grid_is_the_reference_processors(width: int, height: int, grid: Grid) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    if max(width, height) > MAX_RATIO * min(width, height):
        with pytest.raises(ImageError):
            check_size(width, height)
        return
    meant = smart_resize(height, width, grid.side, grid.min_pixels, grid.max_pixels)
    fitted_width, fitted_height = grid.fit(width, height)
    assert (fitted_height, fitted_width) == meant
    assert grid.tokens(width, height) == meant[0] * meant[1] // grid.side**2


@given(width=st.integers(1, 700), height=st.integers(1, 700), grid=GRIDS)
@settings(deadline=None, max_examples=40)
def test_the_processor_finds_the_same_grid_in_what_it_is_given(width: int, height: int, grid: Grid) -> None:
    """End to end: what comes out of ours goes into the reference processor, and its patches are counted."""
    if max(width, height) > MAX_RATIO * min(width, height):
        return
    given_image = Image.new("RGB", (width, height), "red")
    data = encoded(given_image)
    ours = fit(data, read_header(data), grid)
    process = processor(grid)
    seen = process(images=[ours], return_tensors="pt")["image_grid_thw"]
    assert seen.tolist() == process(images=[given_image], return_tensors="pt")["image_grid_thw"].tolist()


@pytest.mark.parametrize("grid", [QWEN3, QWEN2, DEMO])
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *itertools.product(["JPEG", "PNG", "WEBP"], [(640, 480), (1024, 768), (333, 1501)]),
        ("JPEG", (4032, 3024)),
    ],
)
def test_photographs_keep_their_pixels(grid: Grid, kind: str, size: tuple[int, int]) -> None:
    data = encoded(photograph(*size), kind)
    difference = np.abs(fitted(data, grid).astype(int) - reference(data, grid))
    assert difference.mean() <= 1


@pytest.mark.parametrize("grid", [QWEN3, QWEN2, DEMO])
@pytest.mark.parametrize(("size", "print_size"), [((4032, 3024), 24), ((4032, 3024), 60), ((2480, 3508), 40)])
def test_pages_full_of_print_keep_their_pixels(grid: Grid, size: tuple[int, int], print_size: int) -> None:
    data = encoded(text_page(*size, print_size), "JPEG", quality=90)
    difference = np.abs(fitted(data, grid).astype(int) - reference(data, grid))
    assert difference.mean() <= 2


def test_what_is_not_shrunk_while_decoding_is_the_references_to_the_last_bit() -> None:
    data = encoded(photograph(1500, 1000))
    assert np.array_equal(fitted(data, QWEN3), reference(data, QWEN3))


def test_a_turned_picture_lies_on_the_turned_grid() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photograph(1600, 800), "JPEG", exif=exif.tobytes())  # type: ignore[arg-type]
    assert fitted(data, QWEN3).shape == (3, 1536, 768)


@pytest.mark.parametrize(("width", "height"), [(4000, 158), (20_000, 100), (16, 1008)])
def test_what_the_processor_would_not_leave_alone_is_left_to_it(width: int, height: int) -> None:
    """Long and narrow: the reference is not idempotent there, so that shrinking it before would change the grid."""
    data = encoded(Image.new("RGB", (width, height), "red"))
    ours = fit(data, read_header(data), DEMO)
    assert isinstance(ours, Image.Image)
    assert ours.size == (width, height)
    told = asyncio.run(Workshop(DEMO).fit(data)).seen_size
    assert told == DEMO.fit(width, height)


def test_one_pixel_becomes_a_picture() -> None:
    pixels = fitted(encoded(Image.new("RGB", (1, 1), "red")), QWEN3)
    assert pixels.shape == (3, 256, 256)
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]


def test_many_pictures_at_once() -> None:
    pictures = [encoded(Image.new("RGB", (64 + at, 64), (at, 0, 0))) for at in range(32)]

    async def all_at_once() -> list[Any]:
        workshop = Workshop(QWEN3)
        return await asyncio.gather(*map(workshop.fit, pictures))

    for at, picture in enumerate(asyncio.run(all_at_once())):
        assert picture.pixels[:, 0, 0].tolist() == [at, 0, 0]
        assert picture.seen_size == QWEN3.fit(64 + at, 64)
    assert len({picture.digest for picture in asyncio.run(all_at_once())}) == 32


def test_a_picture_that_comes_again_is_not_decoded_again() -> None:
    """As in a conversation, which sends it with every turn; under whatever declared type."""

    async def twice() -> tuple[Picture, Picture]:
        workshop = Workshop(QWEN3)
        picture = encoded(Image.new("RGB", (640, 480), "red"))
        url = f"data:text/plain;base64,{base64.b64encode(picture).decode()}"
        return await workshop.fit(picture), await workshop.fit(url)

    first, second = asyncio.run(twice())
    assert first is second


def test_what_is_kept_is_bounded() -> None:
    kept = Kept(max_bytes=3000)
    pictures = [Picture(np.zeros((3, 10, 30), np.uint8), bytes([at]), (30, 10)) for at in range(5)]
    for picture in pictures[:3]:
        kept.keep(picture)
    assert kept.get(b"\0") is pictures[0]
    for picture in pictures[3:]:
        kept.keep(picture)
    assert [kept.get(bytes([at])) is not None for at in range(5)] == [True, False, False, True, True]


@pytest.mark.parametrize("side", [13_000, 20_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    """Rows 23 and 24: the pixels are there, in half a megabyte; none is decoded, so that memory stays."""
    import resource

    bomb = png(side, side, 1, 0, bytes((side + 7) // 8) * side)
    assert len(bomb) < 2**19
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=f"{side}×{side}"):
        asyncio.run(Workshop(QWEN3).fit(bomb))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # KiB
