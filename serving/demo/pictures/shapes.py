"""The outline of each shape as a polygon, in a frame whose longest extent is 1 and whose centre is the origin."""

import math
import random
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]  # (points, 2): x to the right, y down

# Longest to shorter extent. Shapes that are not named here are as tall as wide, or nearly so.
RATIOS = {"rectangle": (1.5, 2.6), "oval": (1.42, 2.2), "diamond": (1.0, 1.8)}

_CURVE_POINTS = 72


def _around(count: int, radius: float = 0.5, start: float = -90.0) -> Polygon:
    angles = np.radians(start + np.arange(count) * 360.0 / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius


def _star(inner: float) -> Polygon:
    points = _around(10)
    points[1::2] *= inner
    return points


def _heart() -> Polygon:
    t = np.linspace(0, 2 * math.pi, _CURVE_POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - (y.min() + y.max()) / 2], axis=1) / 32.0


def _cross(arm: float) -> Polygon:
    a, b = 0.5, arm / 2
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    return np.array(corners)


def _box(height: float) -> Polygon:
    return np.array([(-0.5, -height / 2), (0.5, -height / 2), (0.5, height / 2), (-0.5, height / 2)])


@cache
def _unit(shape: str, variant: int) -> Polygon:
    """`variant` 0 to 9 runs through the ways in which people draw a shape: thin or thick arms, flat or steep."""
    share = variant / 9
    match shape:
        case "circle" | "oval":
            return _around(_CURVE_POINTS)
        case "square" | "rectangle":
            return _box(1.0)
        case "diamond":
            return _around(4)
        case "triangle":  # isosceles, its centre in the middle of its height
            height = 0.75 + 0.25 * share
            return np.array([(0.0, -height / 2), (0.5, height / 2), (-0.5, height / 2)])
        case "star":
            return _star(0.36 + 0.14 * share)
        case "pentagon":
            return _around(5)
        case "hexagon":
            return _around(6, start=0.0)
        case "heart":
            return _heart()
        case "cross":
            return _cross(0.22 + 0.16 * share)
        case _:
            raise ValueError(f"no such shape: {shape}")


@lru_cache(maxsize=4096)
def outline(shape: str, ratio: float, rotation: float, variant: int = 5) -> Polygon:
    """The polygon of a shape that was first made `ratio` times shorter in one direction, then turned clockwise."""
    points = _unit(shape, variant).copy()
    points[:, 0 if shape == "diamond" else 1] /= ratio
    angle = math.radians(rotation)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned: Polygon = points @ turn
    return turned


def random_turn(rng: random.Random, shape: str) -> float:
    """Degrees by which a shape may be turned and still be called by its name. Upright is the most common."""
    upright = rng.random() < 0.5
    match shape:
        case "circle":
            return 0.0
        case "square":
            return 0.0 if upright else rng.uniform(-12, 12)
        case "rectangle" | "oval":
            side = rng.choice((0.0, 0.0, 90.0))
            return side if upright else side + rng.uniform(-30, 30)
        case "diamond":
            side = rng.choice((0.0, 0.0, 0.0, 90.0))
            return side if upright else side + rng.uniform(-8, 8)
        case "triangle":
            return rng.choice((0.0, 0.0, 0.0, 180.0, 90.0, 270.0)) if upright else rng.uniform(0, 360)
        case "star":
            return 0.0 if upright else rng.uniform(-36, 36)
        case "pentagon" | "hexagon":
            return 0.0 if upright else rng.uniform(0, 72)
        case "heart" | "cross":
            return 0.0 if upright else rng.uniform(-15, 15)
        case _:
            raise ValueError(f"no such shape: {shape}")
