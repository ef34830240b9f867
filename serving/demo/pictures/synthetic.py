"""Synthetic pictures that share a photograph's statistics: hidden parts, textures, uneven light, related colours.

They keep a model from learning the training's few photographs by heart.
"""

import math
import random
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (h, w, 3), RGB
Floats = NDArray[np.float32]
RGB = tuple[int, int, int]


def synthetic_photograph(rng: random.Random, photo: Pixels, width: int, height: int) -> Pixels:
    """A picture of one of four kinds in the colours of `photo`. Both sides have at least 16 pixels."""
    return rng.choice(_KINDS)(rng, photo, width, height)


def _palette(rng: random.Random, photo: Pixels, count: int) -> list[RGB]:
    """Colours that occur together in nature: pixels of a photograph, or (15%) any colours."""
    if rng.random() < 0.15:
        return [(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(count)]
    rows, columns = photo.shape[:2]
    pixels = [photo[rng.randrange(rows), rng.randrange(columns)].tolist() for _ in range(count)]
    return [(red, green, blue) for red, green, blue in pixels]


def _noise(rng: random.Random, width: int, height: int, grain: float) -> Floats:
    """1/f noise (h, w) of mean 0, about -1 to 1: each octave is half as wide and about half as strong as the last."""
    total = np.zeros((height, width), np.float32)
    strength = 1 / 128
    while grain >= 1.5:
        rows, columns = 2 + int(height / grain), 2 + int(width / grain)
        octave = np.frombuffer(rng.randbytes(rows * columns), np.uint8).reshape(rows, columns)
        smooth = cv2.resize(octave.astype(np.float32) - 127.5, (width, height), interpolation=cv2.INTER_CUBIC)
        total += smooth * strength
        strength *= 0.55
        grain /= 2
    return total


def _rough(rng: random.Random, width: int, height: int, grain: float, color: RGB) -> Floats:
    """A surface (h, w, 3) of about one colour, its hue less even than its brightness is."""
    strength, tint = rng.uniform(8, 60), np.array([rng.uniform(-0.4, 0.4) for _ in color], np.float32)
    light = _noise(rng, width, height, grain)[..., None]
    hue = _noise(rng, width, height, grain * 2)[..., None] * tint
    surface: Floats = (np.array(color) + (light + hue) * strength).astype(np.float32)
    return surface


def _lit(rng: random.Random, image: Floats) -> Pixels:
    """Light that falls from one side, and darker corners."""
    height, width = image.shape[:2]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    slope = rng.uniform(0, 0.35)
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + np.add.outer(y * (slope * math.sin(angle)), x * (slope * math.cos(angle)))
    light -= rng.uniform(0, 0.25) * np.add.outer(y * y, x * x)
    lit: Pixels = (image * light[..., None]).clip(0, 255).astype(np.uint8)
    return lit


def _blob(rng: random.Random, x: float, y: float, radius: float) -> NDArray[np.int32]:
    """Corners of an irregular round, long or angular patch around (x, y)."""
    corners, ratio, turn = rng.choice((4, 5, 7, 14, 14)), rng.uniform(0.3, 1.0), rng.uniform(0, math.pi)
    rough = rng.uniform(0.0, 0.35)
    points = []
    for index in range(corners):
        angle = 2 * math.pi * (index + rng.uniform(-rough, rough)) / corners
        reach = radius * (1 + rng.uniform(-rough, rough))
        u, v = reach * math.cos(angle), reach * math.sin(angle) * ratio
        points.append((x + u * math.cos(turn) - v * math.sin(turn), y + u * math.sin(turn) + v * math.cos(turn)))
    corners_16: NDArray[np.int32] = np.rint(np.array(points) * 16).astype(np.int32)
    return corners_16


def _dead_leaves(rng: random.Random, photo: Pixels, width: int, height: int) -> Pixels:
    """Patches of every size that hide each other: the statistics of natural images (Lee, Mumford and Huang 2001)."""
    colors = _palette(rng, photo, 14)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = colors[0]
    roughness = np.full((height, width), 128, np.uint8)
    side = min(width, height)
    smallest, count = side * rng.uniform(0.015, 0.05), rng.randint(80, 260)
    for _ in range(count):
        radius = min(smallest / max(rng.random(), 1e-3) ** 0.6, side * 0.45)
        corners = [_blob(rng, rng.uniform(0, width), rng.uniform(0, height), radius)]
        cv2.fillPoly(image, corners, rng.choice(colors), cv2.LINE_AA, 4)
        cv2.fillPoly(roughness, corners, rng.randrange(256), cv2.LINE_AA, 4)
    texture = _noise(rng, width, height, side / rng.uniform(3, 12))
    relief = texture * (roughness.astype(np.float32) * (rng.uniform(30, 90) / 255))
    return _lit(rng, image.astype(np.float32) + relief[..., None])


def _landscape(rng: random.Random, photo: Pixels, width: int, height: int) -> Pixels:
    """A sky and ranges of hills or roofs before it, each nearer one rougher."""
    sky, horizon, *ground = _palette(rng, photo, 6)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    image = np.array(sky, np.float32) * (1 - rows) + np.array(horizon, np.float32) * rows
    image = image + _noise(rng, width, height, height / 2)[..., None] * rng.uniform(5, 60)
    level, y = rng.uniform(0.15, 0.6) * height, np.arange(height, dtype=np.float32)[:, None]
    for color in ground[: rng.randint(1, 4)]:
        ridge = level + _noise(rng, width, 2, width / rng.uniform(1.5, 6))[0] * height * rng.uniform(0.03, 0.2)
        image = np.where((y > ridge)[..., None], _rough(rng, width, height, rng.uniform(4, 40), color), image)
        level += rng.uniform(0.08, 0.3) * height
    return _lit(rng, image)


def _blurred_scene(rng: random.Random, photo: Pixels, width: int, height: int) -> Pixels:
    """Out of focus: soft fields of colour, discs of light, grain."""
    rows, columns = rng.randint(3, 9), rng.randint(3, 9)
    coarse = np.array(_palette(rng, photo, rows * columns), np.uint8).reshape(rows, columns, 3)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    colors = _palette(rng, photo, 6)
    for _ in range(rng.randint(0, 25)):
        radius = rng.uniform(0.02, 0.25) * min(width, height)
        disc = _blob(rng, rng.uniform(0, width), rng.uniform(0, height), radius)
        cv2.fillPoly(image, [disc], rng.choice(colors), cv2.LINE_AA, 4)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.2, 0.02 * min(width, height) + 1.5))
    grain = _noise(rng, width, height, rng.uniform(2, 6)) * rng.uniform(2, 14)
    return _lit(rng, image.astype(np.float32) + grain[..., None])


def _clutter(rng: random.Random, photo: Pixels, width: int, height: int) -> Pixels:
    """A heap of 20 to 70 things of about one size, each with a shadow and a bright side, on a rough ground."""
    ground, *colors = _palette(rng, photo, 10)
    side = min(width, height)
    image = _rough(rng, width, height, side / 3, ground).clip(0, 255).astype(np.uint8)
    size = side * rng.uniform(0.06, 0.16)
    shift_x, shift_y = (round(rng.uniform(-0.3, 0.3) * size * 16) for _ in range(2))
    for _ in range(rng.randint(20, 70)):
        thing = _blob(rng, rng.uniform(0, width), rng.uniform(0, height), size * rng.uniform(0.6, 1.4))
        color, middle = rng.choice(colors), thing.mean(axis=0)
        cv2.fillPoly(image, [thing + np.array([shift_x, shift_y], np.int32)], _scaled(color, 0.25), cv2.LINE_AA, 4)
        for step in range(3):
            inner = middle + (thing - middle) * (1 - 0.3 * step) - np.array([shift_x, shift_y]) * (0.35 * step)
            cv2.fillPoly(image, [np.rint(inner).astype(np.int32)], _scaled(color, 0.75 + 0.22 * step), cv2.LINE_AA, 4)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
    texture = _noise(rng, width, height, rng.uniform(3, 12)) * rng.uniform(8, 45)
    return _lit(rng, image.astype(np.float32) + texture[..., None])


def _scaled(color: RGB, factor: float) -> RGB:
    red, green, blue = (min(255, round(part * factor)) for part in color)
    return red, green, blue


_KINDS: tuple[Callable[[random.Random, Pixels, int, int], Pixels], ...] = (
    _dead_leaves, _dead_leaves, _landscape, _blurred_scene, _clutter,
)  # fmt: skip
