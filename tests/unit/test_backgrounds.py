"""Backgrounds stay near their colour, photographs are no backgrounds, and one seed draws one picture."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from serving.demo.pictures import photographs
from serving.demo.pictures.backgrounds import MOST_DEVIATION, Split, background, photograph
from serving.demo.pictures.textures import EVAL_TEXTURES, TRAIN_TEXTURES

ASSETS = Path(photographs.__file__).parents[1] / "assets"
SIZES = [(64, 64), (320, 200), (33, 640), (1920, 64)]
SPLITS: list[Split] = ["train", "eval"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("base", [(255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_a_background_fills_the_picture_and_stays_near_its_base(split: Split, base: tuple[int, int, int]) -> None:
    rng = random.Random(7)
    for width, height in SIZES * 15:
        image = background(rng, width, height, base, split)
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - base).max() <= MOST_DEVIATION


@pytest.mark.parametrize("split", SPLITS)
def test_a_third_of_the_backgrounds_is_plain_and_the_rest_is_not(split: Split) -> None:
    rng = random.Random(3)
    plain = sum(background(rng, 96, 96, (128, 128, 128), split).std(axis=(0, 1)).max() == 0 for _ in range(600))
    assert 0.28 < plain / 600 < 0.42


@pytest.mark.parametrize("texture", TRAIN_TEXTURES + EVAL_TEXTURES)
def test_a_texture_is_visible_at_every_size(texture) -> None:
    for width, height in SIZES:
        field = texture(random.Random(5), width, height)
        assert field.shape == (height, width)
        assert field.dtype == np.uint8
        assert field.std() > 5


def test_the_evaluation_draws_other_textures_than_training() -> None:
    assert not set(TRAIN_TEXTURES) & set(EVAL_TEXTURES)


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_draws_the_same_picture(split: Split) -> None:
    if split == "eval":
        pytest.importorskip("skimage")
        pytest.importorskip("sklearn")
    for seed in range(40):
        first, second = random.Random(seed), random.Random(seed)
        assert np.array_equal(
            background(first, 120, 80, (9, 99, 199), split), background(second, 120, 80, (9, 99, 199), split)
        )
        assert np.array_equal(photograph(first, 120, 80, split), photograph(second, 120, 80, split))


@pytest.mark.parametrize("split", SPLITS)
def test_a_photograph_fills_any_picture_with_detail(split: Split) -> None:
    if split == "eval":
        pytest.importorskip("skimage")
        pytest.importorskip("sklearn")
    rng = random.Random(11)
    detail = []
    for width, height in SIZES * 12:
        image = photograph(rng, width, height, split)
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8
        detail.append(image.std(axis=(0, 1)).max())
    assert np.quantile(detail, 0.1) > 10


def test_a_photograph_is_decoded_once() -> None:
    assert photographs._photo(0) is photographs._photo(0)


def test_every_asset_names_its_source_and_licence() -> None:
    sources = json.loads((ASSETS / "SOURCES.json").read_text(encoding="utf-8"))
    entries = sources["fonts"] + sources["photos"]
    files = {path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*") if path.suffix in (".ttf", ".jpg")}
    assert {entry["file"] for entry in entries} == files
    assert all(entry["licence"] and entry["package"] and entry["version"] for entry in entries)


def test_no_font_family_is_in_both_splits() -> None:
    fonts = json.loads((ASSETS / "SOURCES.json").read_text(encoding="utf-8"))["fonts"]
    families = {split: {font["family"] for font in fonts if f"/{split}/" in font["file"]} for split in SPLITS}
    assert families["train"]
    assert families["eval"]
    assert not families["train"] & families["eval"]


@pytest.mark.parametrize(
    "path", sorted(ASSETS.glob("fonts/*/*.ttf")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_a_font_has_every_digit_and_capital(path: Path) -> None:
    font = ImageFont.truetype(str(path), 40)
    missing = bytes(font.getmask("\N{SNOWMAN}"))
    for character in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        mask = font.getmask(character)
        assert mask.getbbox() is not None
        assert bytes(mask) != missing
