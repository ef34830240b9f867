"""Textures behind drawings, as fields of grey levels (h, w) of 0 to 255. Their colours are given in backgrounds.py.

The evaluation's textures are of kinds that training never shows. All are periodic patterns in 16-bit arithmetic or
noise that is enlarged from few bytes: a tenth to half a millisecond for 320 × 320 pixels.
"""

import math
import random
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.uint8]  # (h, w)

_SINE: Field = np.rint(127.5 + 127.5 * np.sin(np.arange(256) * (2 * np.pi / 256))).astype(np.uint8)
_TRIANGLE: Field = np.rint(255 - np.abs(np.arange(256) - 128) * 2.0).clip(0, 255).astype(np.uint8)
_SQUARE: Field = ((_TRIANGLE.astype(np.int16) - 128) * 6 + 128).clip(0, 255).astype(np.uint8)
_STEP: Field = _SQUARE[:128].repeat(2)


def random_bytes(rng: random.Random, *shape: int) -> Field:
    """Noise of any shape; read-only."""
    return np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).reshape(shape)


def enlarged(field: Field, width: int, height: int) -> Field:
    """A smooth field from few values."""
    resized: Field = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    return resized


def _shaped(phase: Field, curve: Field) -> Field:
    """A curve of 256 levels along a phase or over a noise."""
    shaped: Field = cv2.LUT(phase, curve)
    return shaped


def _mixed(first: Field, second: Field, share: float) -> Field:
    mixed: Field = cv2.addWeighted(first, 1 - share, second, share, 0)
    return mixed


def _phase(width: int, height: int, period: float, degrees: float) -> Field:
    """Where each pixel lies (0 to 255) within stripes that are `period` pixels wide and run across `degrees`."""
    angle, step = math.radians(degrees), 65536 / period
    x = (np.arange(width) * (step * math.cos(angle))).astype(np.int64).astype(np.uint16)
    y = (np.arange(height) * (step * math.sin(angle))).astype(np.int64).astype(np.uint16)
    return (np.add.outer(y, x) >> 8).astype(np.uint8)


def _period(rng: random.Random, width: int, height: int, *, finest: float = 4.0) -> float:
    """A length in pixels, up to a quarter of the picture; each order of magnitude is as likely."""
    coarsest = max(finest * 1.5, min(width, height) / 4)
    return math.exp(rng.uniform(math.log(finest), math.log(coarsest)))


def _grains(rng: random.Random, width: int, height: int, across: float, down: float) -> Field:
    """Smooth noise whose grains are about `across` × `down` pixels."""
    return enlarged(random_bytes(rng, 2 + int(height / down), 2 + int(width / across)), width, height)


def _lines(field: Field, thickness: float) -> Field:
    """Dark lines on light: from a phase, the part of a period that a line takes."""
    edge = thickness * 256
    return (255 - ((edge - field.astype(np.float32)) * 64).clip(0, 255)).astype(np.uint8)


def _value_noise(rng: random.Random, width: int, height: int) -> Field:
    grain = _period(rng, width, height)
    return _grains(rng, width, height, grain, grain)


def _clouds(rng: random.Random, width: int, height: int) -> Field:
    coarse = min(width, height) / rng.uniform(2, 4)
    field = _grains(rng, width, height, coarse, coarse)
    for octave in (3, 9):
        field = _mixed(field, _grains(rng, width, height, max(1.5, coarse / octave), max(1.5, coarse / octave)), 0.35)
    return field


def _stripes(rng: random.Random, width: int, height: int) -> Field:
    degrees = rng.choice((0, 0, 90, 90, 45, 135, rng.uniform(0, 180)))
    return _shaped(_phase(width, height, _period(rng, width, height), degrees), rng.choice((_SINE, _SQUARE)))


def _checks(rng: random.Random, width: int, height: int) -> Field:
    period, degrees = _period(rng, width, height, finest=8), rng.choice((0, 0, 45))
    first, second = (_phase(width, height, period, degrees + turn) > 127 for turn in (0, 90))
    return (first ^ second).astype(np.uint8) * 255


def _dots(rng: random.Random, width: int, height: int) -> Field:
    period, degrees = _period(rng, width, height, finest=6), rng.choice((0, 45, rng.uniform(0, 90)))
    first, second = (_shaped(_phase(width, height, period, degrees + turn), _SINE) for turn in (0, 90))
    return _shaped(_mixed(first, second, 0.5), _STEP)


def _paper(rng: random.Random, width: int, height: int) -> Field:
    fine = rng.uniform(1.0, 2.5)
    return _mixed(_grains(rng, width, height, fine, fine), _clouds(rng, width, height), rng.uniform(0.3, 0.7))


def _fabric(rng: random.Random, width: int, height: int) -> Field:
    period = rng.uniform(3, 8)
    warp, weft = (_shaped(_phase(width, height, period, turn), _SINE) for turn in (0, 90))
    return _mixed(np.maximum(warp, weft), _grains(rng, width, height, 2, 2), 0.3)


def _wood(rng: random.Random, width: int, height: int) -> Field:
    length, thickness = rng.uniform(0.3, 0.8) * max(width, height), rng.uniform(2, 8)
    upright = rng.random() < 0.5
    across, down = (thickness, length) if upright else (length, thickness)
    streaks = _grains(rng, width, height, across, down)
    figure = _grains(rng, width, height, across * 6, down)
    rings = _shaped((figure.astype(np.uint16) * 5).astype(np.uint8), _SINE)
    return _mixed(streaks, rings, rng.uniform(0.2, 0.6))


def _squared_paper(rng: random.Random, width: int, height: int) -> Field:
    period, thickness = _period(rng, width, height, finest=10), rng.uniform(0.06, 0.15)
    rows = _lines(_phase(width, height, period, 90), thickness)
    return rows if rng.random() < 0.4 else np.minimum(rows, _lines(_phase(width, height, period, 0), thickness))


def _hatch(rng: random.Random, width: int, height: int) -> Field:
    period, degrees, thickness = _period(rng, width, height, finest=7), rng.uniform(25, 65), rng.uniform(0.15, 0.3)
    first, second = (_lines(_phase(width, height, period, turn), thickness) for turn in (degrees, -degrees))
    return np.minimum(first, second) if rng.random() < 0.6 else first


def _bricks(rng: random.Random, width: int, height: int) -> Field:
    course = _period(rng, width, height, finest=8)
    rows, straight = _phase(width, height, course, 90), _phase(width, height, course * 2, 0)
    odd = (np.arange(height) // course).astype(np.uint8)[:, None] % 2 * np.uint8(128)
    return np.minimum(_lines(rows, 0.12), _lines(straight + odd, 0.06))


def _zigzag(rng: random.Random, width: int, height: int) -> Field:
    period = _period(rng, width, height, finest=8)
    swing = _TRIANGLE[_phase(width, 1, period * rng.uniform(1, 2), 0)]
    return _shaped(_phase(width, height, period, 90) + swing, rng.choice((_SINE, _SQUARE)))


def _ridges(rng: random.Random, width: int, height: int) -> Field:
    """Folded noise: bright creases where a smooth field crosses its middle."""
    grain = min(width, height) / rng.uniform(3, 8)
    field = _TRIANGLE[_grains(rng, width, height, grain, grain)]
    return _mixed(field, _TRIANGLE[_grains(rng, width, height, max(2, grain / 2), max(2, grain / 2))], 0.4)


def _blotches(rng: random.Random, width: int, height: int) -> Field:
    grain = min(width, height) / rng.uniform(5, 14)
    return _shaped(_grains(rng, width, height, grain, grain), _STEP)


def _rings(rng: random.Random, width: int, height: int) -> Field:
    x, y = np.arange(width) - rng.uniform(0, width), np.arange(height) - rng.uniform(0, height)
    distance = np.sqrt(np.add.outer((y * y).astype(np.float32), (x * x).astype(np.float32)))
    turns = distance * (256 / _period(rng, width, height, finest=8))
    return _shaped(turns.astype(np.int32).astype(np.uint8), _SINE)


Texture = Callable[[random.Random, int, int], Field]
TRAIN_TEXTURES: tuple[Texture, ...] = (
    _value_noise, _clouds, _stripes, _checks, _dots, _paper, _fabric, _wood, _squared_paper,
)  # fmt: skip
EVAL_TEXTURES: tuple[Texture, ...] = (_hatch, _bricks, _zigzag, _ridges, _blotches, _rings)
