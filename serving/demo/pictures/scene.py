"""What is in a picture: which items, where, in which colours, and which word. Nothing is rasterized here (draw.py).

Places are named by thirds: the centre of an item lies in one of nine cells, and the cell's name is the item's place
("top left", "top", …, "center", …). `place_of` answers None near a line between two thirds, and then no question
about the place is asked.

Shapes that could be taken for each other are kept apart (shapes.py): a square turns at most 12 degrees while a diamond
stands on its corner, a rectangle and an oval are clearly longer than wide, a circle is exact. Nothing overlaps.
"""

import math
import random
from dataclasses import dataclass
from typing import Literal

from serving.demo.pictures.colors import RGB, background_color, distance, luma, shade, stands_out
from serving.demo.pictures.fitting import fitted_size
from serving.demo.pictures.lettering import fonts, width_ratio
from serving.demo.pictures.shapes import RATIOS, outline, random_turn
from serving.demo.pictures.words import printed_word
from serving.demo.vocabulary import COLORS, SHAPES

Split = Literal["train", "eval"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

MOST_ITEMS = 6
PLACE_MARGIN = 0.05  # of the width or height, on each side of a line between thirds

_SHAPE_NAMES, _COLOR_NAMES = tuple(SHAPES), tuple(COLORS)
_CELLS = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))

# What people draw on; the rest of the pictures has any size.
_COMMON_SIZES = (
    *((640, 480), (480, 640), (512, 512), (256, 256), (224, 224), (400, 300), (300, 300), (320, 240)),
    *((400, 400), (600, 400), (500, 500), (128, 128), (640, 360), (336, 336), (200, 200)),
)
_LARGE_SIZES = (
    *((1024, 1024), (1024, 768), (768, 1024), (800, 600)),
    *((1280, 720), (1920, 1080), (1080, 1920), (2048, 2048)),
)

# In the fitted picture and in the original one, in pixels: what a person can still recognise.
_SMALLEST_FITTED, _SMALLEST = 22.0, 14.0
_SMALLEST_OF_MANY_CORNERS_FITTED, _SMALLEST_OF_MANY_CORNERS = 36.0, 24.0
_SMALLEST_CAPITAL_FITTED, _SMALLEST_CAPITAL = 12.5, 10.0


@dataclass(frozen=True, slots=True)
class Item:
    """One shape. `x`, `y`: its centre, as fractions of width and height. `size`: its longest extent before it is
    turned, as a fraction of the picture's shorter side. `rotation`: degrees, clockwise. `ratio`: longer to shorter
    extent. `variant`: 0 to 9, see shapes.py."""

    shape: str
    color: str
    x: float
    y: float
    size: float
    rotation: float
    ratio: float
    variant: int
    rgb: RGB
    edge: RGB | None


@dataclass(frozen=True, slots=True)
class Text:
    """One printed word. `x`, `y`: its centre as fractions; `height_px`: of a capital letter, in the picture's pixels."""

    value: str
    x: float
    y: float
    height_px: float
    rotation: float
    color: str
    rgb: RGB
    font: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture of `width` × `height` pixels on a background of about the colour `base`. A photograph is empty."""

    width: int
    height: int
    items: tuple[Item, ...]
    text: Text | None
    photo: bool
    base: RGB


def place_of(thing: Item | Text) -> str | None:
    """The name of the place of a thing, or None where two people would name it differently."""
    column, row = _third(thing.x), _third(thing.y)
    return None if column is None or row is None else _CELLS[row][column]


def _third(position: float) -> int | None:
    if min(abs(position - 1 / 3), abs(position - 2 / 3)) < PLACE_MARGIN:
        return None
    return int(position * 3)


def random_scene(
    rng: random.Random, split: Split, *, items: int | None = None, text: bool | None = None, alike: bool | None = None
) -> Scene:
    """A picture with, where they are given, that many items (fewer if they do not fit), with or without a word, and
    with groups of the same shape and colour or without."""
    width, height = random_size(rng, split)
    base = background_color(rng)
    if text is None:
        text = rng.random() < 0.5
    if items is None:
        weights = (45, 22, 12, 8, 6, 4, 3) if text else (2, 40, 18, 13, 10, 8, 9)
        items = rng.choices(range(MOST_ITEMS + 1), weights)[0]
    taken: list[Box] = []
    word = _random_text(rng, split, width, height, base, alone=items == 0, taken=taken) if text else None
    placed = _random_items(rng, width, height, base, items, alike, taken)
    return Scene(width, height, placed, word, photo=False, base=base)


def random_size(rng: random.Random, split: Split) -> tuple[int, int]:
    """Sides of 64 to 2048 pixels and aspects of 1:3 to 3:1. Training mostly stays below 640, evaluation spreads."""
    large = rng.random() < (0.1 if split == "train" else 0.35)
    if rng.random() < 0.4:
        return rng.choice(_LARGE_SIZES if large else _COMMON_SIZES)
    longer = rng.uniform(640, 2048) if large else math.exp(rng.uniform(math.log(64), math.log(640)))
    aspect = 1.0 if rng.random() < 0.25 else math.exp(rng.uniform(0, math.log(3)))
    shorter = max(64.0, math.ceil(longer / aspect))
    width, height = round(max(longer, shorter)), round(shorter)
    return (width, height) if rng.random() < 0.55 else (height, width)


def photograph_scene(rng: random.Random, split: Split) -> Scene:
    """A photograph of a random size."""
    width, height = random_size(rng, split)
    return Scene(width, height, (), None, photo=True, base=(0, 0, 0))


def _fit_scale(width: int, height: int) -> float:
    fitted_width, fitted_height = fitted_size(width, height)
    return min(fitted_width / width, fitted_height / height)


def _random_position(rng: random.Random) -> float:
    """A fraction of a side: often the middle, else clearly in one of the thirds, else anywhere."""
    kind = rng.random()
    if kind < 0.15:
        return 0.5
    if kind < 0.6:
        third = rng.randrange(3)
        return (third + rng.uniform(0.2, 0.8)) / 3
    return rng.uniform(0.06, 0.94)


def _is_free(box: Box, taken: list[Box], gap: float) -> bool:
    left, top, right, bottom = box
    return all(
        left > other[2] + gap or right < other[0] - gap or top > other[3] + gap or bottom < other[1] - gap
        for other in taken
    )


def _random_items(
    rng: random.Random, width: int, height: int, base: RGB, count: int, alike: bool | None, taken: list[Box]
) -> tuple[Item, ...]:
    colors = [(name, shade(rng, name)) for name in _COLOR_NAMES]
    colors = [(name, rgb) for name, rgb in colors if stands_out(rgb, base)]
    if alike is None:
        alike = rng.random() < 0.45
    # A drawing of one kind, of two kinds, or every item on its own.
    kinds = [(rng.choice(_SHAPE_NAMES), rng.choice(colors)) for _ in range(rng.randint(1, 2) if alike else count)]
    same_size = rng.uniform(0.5, 1.0) if rng.random() < 0.4 else None
    items: list[Item] = []
    for index in range(count):
        shape, (color, rgb) = rng.choice(kinds) if alike else kinds[index]
        if not alike and rng.random() < 0.3:
            rgb = _shade_on(rng, color, base) or rgb
        for _ in range(12):
            item = _random_item(
                rng, width, height, shape, color, rgb, base, count + (len(taken) > len(items)), same_size
            )
            if item is None:
                continue
            box = item_box(item, width, height)
            if _is_free(box, taken, gap=0.025 * min(width, height)):
                items.append(item)
                taken.append(box)
                break
    return tuple(items)


def _shade_on(rng: random.Random, color: str, base: RGB) -> RGB | None:
    rgb = shade(rng, color)
    return rgb if stands_out(rgb, base) else None


def _random_item(
    rng: random.Random,
    width: int,
    height: int,
    shape: str,
    color: str,
    rgb: RGB,
    base: RGB,
    crowd: int,
    relative: float | None,
) -> Item | None:
    """One item somewhere inside the picture, or None where its place leaves too little room for it."""
    ratio = rng.uniform(*RATIOS[shape]) if shape in RATIOS else 1.0
    turn = random_turn(rng, shape)
    variant = rng.randrange(10)
    polygon = outline(shape, ratio, turn, variant)
    half_x, half_y = float(abs(polygon[:, 0]).max()), float(abs(polygon[:, 1]).max())
    shorter = min(width, height)
    most = shorter * (0.95 if crowd == 1 else 0.7 if crowd == 2 else 0.45) * math.sqrt(ratio)
    x, y = _random_position(rng), _random_position(rng)
    if crowd == 1 and rng.random() < 0.4:  # one large shape: its size first, then a place that has room for it
        extent = most * rng.uniform(0.4, 1.0)
        margin_x, margin_y = (min(0.5, extent * half / side) for half, side in ((half_x, width), (half_y, height)))
        x, y = rng.uniform(margin_x, 1 - margin_x), rng.uniform(margin_y, 1 - margin_y)
    room = 0.98 * min(min(x, 1 - x) * width / half_x, min(y, 1 - y) * height / half_y)
    largest = min(room, most)
    scale = _fit_scale(width, height)
    if shape in ("pentagon", "hexagon"):
        smallest = max(_SMALLEST_OF_MANY_CORNERS, _SMALLEST_OF_MANY_CORNERS_FITTED / scale)
    else:
        smallest = max(_SMALLEST, _SMALLEST_FITTED / scale) * math.sqrt(ratio)
    if largest < smallest:
        return None
    position = rng.random() if relative is None else relative
    size = smallest * (largest / smallest) ** position
    edge = None
    if size >= 1.8 * smallest and rng.random() < 0.2:  # on a small item little else would be left
        edge = rng.choice(((0, 0, 0), (0, 0, 0), (255, 255, 255), (60, 60, 60)))
        edge = edge if stands_out(edge, rgb) and distance(edge, base) >= 60 else None
    return Item(shape, color, x, y, size / shorter, turn, ratio, variant, rgb, edge)


def item_box(item: Item, width: int, height: int) -> Box:
    """The box around an item, in pixels."""
    polygon = outline(item.shape, item.ratio, item.rotation, item.variant) * (item.size * min(width, height))
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    x, y = item.x * width, item.y * height
    return x + float(low[0]), y + float(low[1]), x + float(high[0]), y + float(high[1])


def _random_text(
    rng: random.Random, split: Split, width: int, height: int, base: RGB, *, alone: bool, taken: list[Box]
) -> Text | None:
    """One word somewhere inside the picture; None where not even a short one would be legible."""
    scale = _fit_scale(width, height)
    smallest = max(_SMALLEST_CAPITAL, _SMALLEST_CAPITAL_FITTED / scale)
    color, rgb = _text_color(rng, base)
    for attempt in range(12):
        value = printed_word(rng, split, longest=6 if attempt < 6 else 3)
        font = rng.choice(fonts(split))
        turn = 0.0 if rng.random() < 0.5 else rng.uniform(-15, 15)
        angle = math.radians(abs(turn))
        length = width_ratio(split, font, value) + 0.3
        across = length * math.cos(angle) + 1.3 * math.sin(angle)
        down = length * math.sin(angle) + 1.3 * math.cos(angle)
        largest = min(0.97 * width / across, 0.97 * height / down, (0.5 if alone else 0.28) * height)
        if largest < smallest:
            continue
        size = smallest * (largest / smallest) ** rng.random()
        margin_x, margin_y = size * across / 2 / width, size * down / 2 / height
        x = min(max(_random_position(rng), margin_x), 1 - margin_x)
        y = min(max(_random_position(rng), margin_y), 1 - margin_y)
        taken.append(((x - margin_x) * width, (y - margin_y) * height, (x + margin_x) * width, (y + margin_y) * height))
        return Text(value, x, y, size, turn, color, rgb, font)
    return None


def _text_color(rng: random.Random, base: RGB) -> tuple[str, RGB]:
    """A colour that is legible on `base`: mostly black or white."""
    for _ in range(20):
        name = rng.choice(("black", "white")) if rng.random() < 0.5 else rng.choice(_COLOR_NAMES)
        rgb = shade(rng, name)
        if abs(luma(rgb) - luma(base)) >= 95 and stands_out(rgb, base):
            return name, rgb
    return ("black", (0, 0, 0)) if luma(base) > 127 else ("white", (255, 255, 255))
