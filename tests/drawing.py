"""Pictures as a stranger would draw them with Pillow, for questions whose right answers are known."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_FONTS = Path(__file__).parent.parent / "serving" / "demo" / "assets" / "fonts" / "eval"


def blank(width: int = 640, height: int = 480, color: str = "white") -> Image.Image:
    return Image.new("RGB", (width, height), color)


def circle(image: Image.Image, x: int, y: int, radius: int, color: str) -> Image.Image:
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return image


def circles(image: Image.Image, centres: list[tuple[int, int]], radius: int, color: str) -> Image.Image:
    for x, y in centres:
        circle(image, x, y, radius, color)
    return image


def square(image: Image.Image, x: int, y: int, half: int, color: str) -> Image.Image:
    ImageDraw.Draw(image).rectangle((x - half, y - half, x + half, y + half), fill=color)
    return image


def triangle(image: Image.Image, x: int, y: int, half: int, color: str) -> Image.Image:
    corners = [(x, y - half), (x - half, y + half), (x + half, y + half)]
    ImageDraw.Draw(image).polygon(corners, fill=color)
    return image


def word(image: Image.Image, text: str, height: int, color: str = "black") -> Image.Image:
    """The word in the middle, in a font that the model was not trained on."""
    font = ImageFont.truetype(str(sorted(_FONTS.glob("*.ttf"))[0]), height)
    ImageDraw.Draw(image).text((image.width / 2, image.height / 2), text, fill=color, font=font, anchor="mm")
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
