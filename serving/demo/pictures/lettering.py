"""Measuring and rasterizing printed words. The training and the evaluation fonts share no font (assets/SOURCES.json)."""

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_FONTS = Path(__file__).parents[1] / "assets" / "fonts"
_REFERENCE = 64  # points at which a font's proportions are measured


@cache
def fonts(split: str) -> tuple[str, ...]:
    """The font files of a split, by name."""
    return tuple(sorted(path.name for path in (_FONTS / split).glob("*.ttf")))


@lru_cache(maxsize=2048)
def _font(split: str, name: str, points: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONTS / split / name), points, layout_engine=ImageFont.Layout.BASIC)


@cache
def _cap_height(split: str, name: str) -> float:
    """Height of a capital letter in points of the font's size."""
    _, top, _, bottom = _font(split, name, _REFERENCE).getbbox("H")
    return (bottom - top) / _REFERENCE


def width_ratio(split: str, name: str, value: str) -> float:
    """Width of a word, in heights of its capital letters."""
    font = _font(split, name, _REFERENCE)
    return float(font.getlength(value)) / (_REFERENCE * _cap_height(split, name))


def mask(split: str, name: str, value: str, height_px: float) -> NDArray[np.uint8]:
    """Coverage (h, w) of a word, cut to its ink, whose capital letters are about `height_px` tall."""
    font = _font(split, name, max(6, round(height_px / _cap_height(split, name))))
    left, top, right, bottom = font.getbbox(value)
    image = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2), 0)
    ImageDraw.Draw(image).text((1 - left, 1 - top), value, fill=255, font=font)
    return np.asarray(image)
