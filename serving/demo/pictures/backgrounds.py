"""What lies behind the items of a drawing: one colour, a gradient, a texture or noise (photographs: photographs.py).

A background is a field of grey levels (h, w) and a table of 256 colours close to `base`. The table bounds how far any
pixel strays from the base, and the look-up makes 320 × 320 pixels cost a fraction of a millisecond.
"""

import math
import random
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.demo.pictures.photographs import photograph
from serving.demo.pictures.textures import EVAL_TEXTURES, TRAIN_TEXTURES, Field, enlarged, random_bytes

__all__ = ["MOST_DEVIATION", "background", "photograph"]

Split = Literal["train", "eval"]
RGB = tuple[int, int, int]
Pixels = NDArray[np.uint8]  # (h, w, 3), RGB

# Levels per channel between a background and its base. Items are farther from the base (MIN_DISTANCE in colors.py).
MOST_DEVIATION = 35

_RAMP = np.linspace(-1.0, 1.0, 256)
# The 256 quantiles of a normal distribution: random bytes, looked up here, are Gaussian noise of deviation 1.
_QUANTILES = np.interp(
    (np.arange(256) + 0.5) / 256,
    [0.5 * math.erfc(-z / math.sqrt(2)) for z in np.linspace(-3.5, 3.5, 701)],
    np.linspace(-3.5, 3.5, 701),
)


def background(rng: random.Random, width: int, height: int, base: RGB, split: Split) -> Pixels:
    """Plain (35%), gradient (20%), textured (30%) or noisy (15%), nowhere more than MOST_DEVIATION from `base`."""
    kind = rng.random()
    if kind < 0.35:
        return np.tile(np.array(base * width, np.uint8), (height, 1)).reshape(height, width, 3)
    if kind < 0.55:
        return _colored(_gradient(rng, width, height, split), _table(rng, base, rng.uniform(5, MOST_DEVIATION)))
    if kind < 0.85:
        textures = TRAIN_TEXTURES if split == "train" else EVAL_TEXTURES
        return _colored(rng.choice(textures)(rng, width, height), _table(rng, base, rng.uniform(4, 25)))
    return _noisy(rng, width, height, base, split)


def _table(rng: random.Random, base: RGB, amplitude: float) -> Pixels:
    """Colours (1, 256, 3) on both sides of `base`: mostly lighter and darker ones, sometimes of another hue."""
    strengths = [rng.uniform(0.75, 1.0) for _ in base]
    if rng.random() < 0.25:
        strengths = [rng.uniform(-1.0, 1.0) for _ in base]
    return _near(base, _RAMP[:, None] * amplitude * np.array(strengths))


def _near(base: RGB, offsets: NDArray[np.float64]) -> Pixels:
    """A table (1, 256, 3) of `base` plus offsets (256, 3), which are bounded here."""
    colors = np.array(base) + np.rint(offsets.clip(-MOST_DEVIATION, MOST_DEVIATION))
    table: Pixels = colors.clip(0, 255).astype(np.uint8)[None]
    return table


def _colored(field: Field, table: Pixels) -> Pixels:
    pixels: Pixels = cv2.LUT(cv2.cvtColor(field, cv2.COLOR_GRAY2RGB), table)
    return pixels


def _noisy(rng: random.Random, width: int, height: int, base: RGB, split: Split) -> Pixels:
    """Gaussian noise of one or three channels, or salt and pepper; in the evaluation in grains of several pixels."""
    channels = 3 if rng.random() < 0.6 else 1
    grain = rng.choice((1, 1, 2)) if split == "train" else rng.choice((1, 3, 4))
    noise = random_bytes(rng, -(-height // grain), -(-width // grain), channels)
    if grain > 1:
        noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST).reshape(height, width, channels)
    if rng.random() < 0.8:
        offsets = _QUANTILES * rng.uniform(2, 12)
    else:
        ends = rng.randint(1, 8)  # of 256: how many pixels are salt, and how many pepper
        offsets = np.zeros(256)
        offsets[:ends], offsets[-ends:] = -MOST_DEVIATION, MOST_DEVIATION
    if channels == 1:
        noise = cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB)
    pixels: Pixels = cv2.LUT(noise, _near(base, np.repeat(offsets[:, None], 3, axis=1)))
    return pixels


def _gradient(rng: random.Random, width: int, height: int, split: Split) -> Field:
    """From one side to the other or from a point outward; in the evaluation also between four corners."""
    if split == "eval" and rng.random() < 0.5:
        return enlarged(random_bytes(rng, 2, 2), width, height)
    x, y = np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * math.pi)
        field = np.add.outer(y * math.sin(angle), x * math.cos(angle))
    else:
        field = np.sqrt(np.add.outer((y - rng.uniform(0, 1)) ** 2, (x - rng.uniform(0, 1)) ** 2))
        field *= rng.choice((-1, 1))
    low, high = float(field.min()), float(field.max())
    scale = 255 / max(high - low, 1e-6)
    levels: Field = cv2.convertScaleAbs(field, alpha=scale, beta=-low * scale)
    return levels
