"""Which RGB values each colour name covers, and how far two colours are apart.

Every name has exact values that people type (CSS, matplotlib, Material) and a box of hue, saturation and value around
them. The boxes keep a gap between names, so that no value could fairly be called by two of them (magenta, teal, beige
and maroon belong to no name and are never an item's colour).
"""

import colorsys
import math
import random

RGB = tuple[int, int, int]

# name → (hue in degrees, saturation, value), each a range; a hue range may run through 360.
_BOXES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((352, 367), (0.85, 1.0), (0.8, 1.0)),
    "orange": ((22, 38), (0.85, 1.0), (0.92, 1.0)),
    "yellow": ((51, 61), (0.65, 1.0), (0.9, 1.0)),
    "green": ((95, 148), (0.5, 1.0), (0.42, 1.0)),
    "blue": ((206, 240), (0.65, 1.0), (0.52, 1.0)),
    "purple": ((270, 292), (0.5, 1.0), (0.48, 0.82)),
    "pink": ((325, 350), (0.22, 0.6), (0.96, 1.0)),
    "brown": ((14, 29), (0.55, 0.85), (0.38, 0.6)),
    "black": ((0, 360), (0.0, 0.1), (0.0, 0.11)),
    "white": ((0, 360), (0.0, 0.025), (0.97, 1.0)),
    "gray": ((0, 360), (0.0, 0.05), (0.4, 0.68)),
}

# Some twice or three times: the more people type them, the more often they are drawn.
_EXACT: dict[str, tuple[RGB, ...]] = {
    "red": (*((255, 0, 0),) * 3, (220, 20, 60), (214, 39, 40), (229, 57, 53), (204, 0, 0)),
    "orange": (*((255, 165, 0),) * 2, (255, 140, 0), (255, 127, 14), (255, 152, 0)),
    "yellow": (*((255, 255, 0),) * 2, (255, 215, 0), (255, 235, 59)),
    "green": (
        *((0, 128, 0), (0, 255, 0)) * 2,
        *((34, 139, 34), (50, 205, 50), (44, 160, 44), (76, 175, 80), (0, 100, 0)),
    ),
    "blue": (*((0, 0, 255),) * 3, (30, 144, 255), (65, 105, 225), (31, 119, 180), (33, 150, 243), (0, 0, 139)),
    "purple": (*((128, 0, 128),) * 2, (148, 103, 189), (138, 43, 226), (156, 39, 176), (106, 13, 173)),
    "pink": (*((255, 192, 203),) * 2, (255, 105, 180), (255, 20, 147), (255, 182, 193), (240, 98, 146)),
    "brown": (*((139, 69, 19),) * 2, (165, 42, 42), (160, 82, 45), (140, 86, 75), (121, 85, 72), (101, 67, 33)),
    "black": ((0, 0, 0),),
    "white": ((255, 255, 255),),
    "gray": (*((128, 128, 128),) * 2, (169, 169, 169), (105, 105, 105), (127, 127, 127)),
}

# Below this an item could be overlooked on its background. Pink (255, 192, 203) on white is 146 apart.
MIN_DISTANCE = 140.0


def shade(rng: random.Random, name: str) -> RGB:
    """A value of the colour `name`: one that people type, or any in its box."""
    if rng.random() < 0.45:
        return rng.choice(_EXACT[name])
    hue, saturation, value = (rng.uniform(*span) for span in _BOXES[name])
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def name_of(color: RGB) -> str | None:
    """The name that covers a value beyond doubt, or None."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    for name, ((low, high), saturations, values) in _BOXES.items():
        in_hue = low <= hue * 360 <= high or low <= hue * 360 + 360 <= high
        if in_hue and saturations[0] <= saturation <= saturations[1] and values[0] <= value <= values[1]:
            return name
    return None


def distance(first: RGB, second: RGB) -> float:
    """How different two colours look, 0 to 765: Euclid's distance weighted by the mean of the reds ("redmean")."""
    mean_red = (first[0] + second[0]) / 2
    red, green, blue = (a - b for a, b in zip(first, second, strict=True))
    return math.sqrt((2 + mean_red / 256) * red**2 + 4 * green**2 + (2 + (255 - mean_red) / 256) * blue**2)


def stands_out(color: RGB, behind: RGB) -> bool:
    """Whether an item is seen on what lies behind it. Blue alone does not make the difference: navy on black."""
    seen = (
        any(abs(color[channel] - behind[channel]) >= 50 for channel in (0, 1)) or abs(luma(color) - luma(behind)) >= 22
    )
    return seen and distance(color, behind) >= MIN_DISTANCE


def luma(color: RGB) -> float:
    """Brightness, 0 to 255 (ITU-R BT.601)."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def background_color(rng: random.Random) -> RGB:
    """What lies behind the items: white or nearly so (40%), a light tint, any colour, or dark."""
    kind = rng.random()
    if kind < 0.25:
        return 255, 255, 255
    if kind < 0.4:
        level = rng.randint(238, 254)
        return level, level, level
    if kind < 0.62:
        span = ((0.03, 0.25), (0.85, 1.0))
    elif kind < 0.8:
        span = ((0.2, 1.0), (0.35, 0.95))
    elif kind < 0.86:
        return 0, 0, 0
    else:
        span = ((0.0, 0.6), (0.05, 0.35))
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*span[0]), rng.uniform(*span[1]))
    return round(red * 255), round(green * 255), round(blue * 255)
