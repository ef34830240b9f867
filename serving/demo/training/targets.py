"""What each patch of a picture shows, for the auxiliary loss that teaches the vision tower to look (train.py).

From scratch, answers alone are a faint signal: a word of six letters is one sentence about a hundred tokens. Knowing
shape, colour and characters patch by patch gives every patch something to learn from the first step on.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from serving.demo.pictures.lettering import width_ratio
from serving.demo.pictures.scene import Scene, Split, Text
from serving.demo.pictures.shapes import outline
from serving.demo.training.patches import Grid, patch_places
from serving.demo.vocabulary import COLORS, SHAPES

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHAPE_CLASSES = {name: number for number, name in enumerate(SHAPES, start=1)}  # 0: no shape
_COLOR_CLASSES = {name: number for number, name in enumerate(COLORS, start=1)}
SHAPE_CLASSES, COLOR_CLASSES = len(SHAPES) + 1, len(COLORS) + 1
_SAMPLES = 4  # a side, in each patch: an item that touches a patch is seen in it


@dataclass(frozen=True, slots=True)
class PatchTargets:
    """In the order of `to_patches`: classes of shape and colour (uint8), characters as bits of an int64."""

    shapes: npt.NDArray[np.uint8]
    colors: npt.NDArray[np.uint8]
    characters: npt.NDArray[np.int64]


def patch_targets(scene: Scene, grid: Grid, split: Split) -> PatchTargets:
    """The targets of a picture that was fitted to `grid`."""
    rows, columns = grid
    numbers = np.zeros((rows * _SAMPLES, columns * _SAMPLES), np.uint8)  # of the item, from 1
    scene_side = min(scene.width, scene.height)
    scale = np.array([columns * _SAMPLES / scene.width, rows * _SAMPLES / scene.height])
    for number, item in enumerate(scene.items, start=1):
        points = outline(item.shape, item.ratio, item.rotation, item.variant) * (item.size * scene_side)
        center = np.array([item.x * scene.width, item.y * scene.height])
        corners = (points + center) * scale - 0.5
        cv2.fillPoly(numbers, [np.round(corners).astype(np.int32)], number)
    places = patch_places(grid)
    item_of = numbers.reshape(rows, _SAMPLES, columns, _SAMPLES).max((1, 3))[places]
    shapes = np.array([0, *(_SHAPE_CLASSES[item.shape] for item in scene.items)], np.uint8)[item_of]
    colors = np.array([0, *(_COLOR_CLASSES[item.color] for item in scene.items)], np.uint8)[item_of]
    characters = np.zeros(grid, np.int64)
    if scene.text is not None:
        for character, x, y in character_centers(scene.text, scene, split):
            row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
            characters[row, column] |= 1 << CHARACTERS.index(character)
    return PatchTargets(shapes, colors, characters[places])


def character_centers(text: Text, scene: Scene, split: Split) -> list[tuple[str, float, float]]:
    """Each character and its centre as fractions of width and height, along the turned baseline."""
    ends = [width_ratio(split, text.font, text.value[:count]) for count in range(len(text.value) + 1)]
    angle = math.radians(text.rotation)
    centers = []
    for character, start, end in zip(text.value, ends, ends[1:], strict=False):
        along = ((start + end - ends[-1]) / 2) * text.height_px
        x = text.x + along * math.cos(angle) / scene.width
        y = text.y + along * math.sin(angle) / scene.height
        centers.append((character, min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)))
    return centers
