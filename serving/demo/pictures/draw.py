"""Rasterizing a scene, and the wear that files bring: a mild blur, JPEG or WebP compression.

Training draws pictures above TRAIN_LONGEST_SIDE reduced, since `fit` reduces them anyway; evaluation draws every pixel.
"""

import io
import random

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.demo.pictures import lettering
from serving.demo.pictures.backgrounds import background, photograph
from serving.demo.pictures.fitting import fit
from serving.demo.pictures.scene import Item, Scene, Split, Text
from serving.demo.pictures.shapes import outline

__all__ = ["draw", "fit", "rasterize"]

TRAIN_LONGEST_SIDE = 512
_SUBPIXEL_BITS = 4

Pixels = NDArray[np.uint8]  # (h, w, 3), RGB


def draw(scene: Scene, rng: random.Random, split: Split) -> Pixels:
    """The picture as it comes out of its file. In training, large ones come reduced to TRAIN_LONGEST_SIDE."""
    return _wear(rasterize(scene, rng, split), rng)


def rasterize(scene: Scene, rng: random.Random, split: Split) -> Pixels:
    """The picture before it goes into a file."""
    scale = min(1.0, TRAIN_LONGEST_SIDE / max(scene.width, scene.height)) if split == "train" else 1.0
    width, height = round(scene.width * scale), round(scene.height * scale)
    if scene.photo:
        return photograph(rng, width, height, split)
    canvas = np.ascontiguousarray(background(rng, width, height, scene.base, split))
    line_type = cv2.LINE_8 if rng.random() < 0.25 else cv2.LINE_AA
    for item in scene.items:
        _draw_item(canvas, item, line_type)
    if scene.text is not None:
        _draw_text(canvas, scene.text, scene.text.height_px * scale, split)
    return canvas


def _draw_item(canvas: Pixels, item: Item, line_type: int) -> None:
    height, width = canvas.shape[:2]
    points = outline(item.shape, item.ratio, item.rotation, item.variant) * (item.size * min(width, height))
    points = points + np.array((item.x * width - 0.5, item.y * height - 0.5))
    corners = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(canvas, [corners], item.rgb, line_type, _SUBPIXEL_BITS)
    if item.edge is not None:
        thickness = max(1, round(item.size * min(width, height) * 0.03))
        cv2.polylines(canvas, [corners], True, item.edge, thickness, line_type, _SUBPIXEL_BITS)


def _draw_text(canvas: Pixels, text: Text, height_px: float, split: Split) -> None:
    """Blends the word's coverage over the canvas, turned about its centre."""
    height, width = canvas.shape[:2]
    mask = lettering.mask(split, text.font, text.value, height_px)
    if text.rotation:
        mask = _turned(mask, text.rotation)
    left = round(text.x * width - mask.shape[1] / 2)
    top = round(text.y * height - mask.shape[0] / 2)
    left, top = max(0, min(left, width - mask.shape[1])), max(0, min(top, height - mask.shape[0]))
    region = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
    coverage = mask[: region.shape[0], : region.shape[1], None].astype(np.float32) / 255
    region[:] = np.rint(region + (np.array(text.rgb, np.float32) - region) * coverage)


def _turned(mask: Pixels, degrees: float) -> Pixels:
    """A mask turned clockwise, on a canvas that holds all of it."""
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width, new_height = int(width * cosine + height * sine) + 2, int(width * sine + height * cosine) + 2
    matrix[:, 2] += ((new_width - width) / 2, (new_height - height) / 2)
    return cv2.warpAffine(mask, matrix, (new_width, new_height), flags=cv2.INTER_CUBIC)  # type: ignore[no-any-return]


def _wear(image: Pixels, rng: random.Random) -> Pixels:
    """What a file does to a picture: half stay as they are, 43% go through JPEG of quality 40 to 95, 7% through WebP;
    some are a little blurred."""
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.9))
    kind = rng.random()
    if kind < 0.5:
        return image
    if kind < 0.93:
        options = [cv2.IMWRITE_JPEG_QUALITY, rng.randint(40, 95)]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    else:
        data = _webp(image, rng.randint(40, 95))
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[no-any-return]


def _webp(image: Pixels, quality: int) -> NDArray[np.uint8]:
    """The bytes of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "webp", quality=quality, method=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)
