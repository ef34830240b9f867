"""Pictures that are no drawings: parts of real photographs, and synthetic ones (synthetic.py).

Training reads assets/photos, whose authors and licences are in assets/SOURCES.json. The evaluation shows photographs
that scikit-image and scikit-learn carry in their wheels; none of them, nor a near copy, is in assets/photos. These two
packages are needed for development only.
"""

import math
import random
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.demo.pictures.synthetic import synthetic_photograph

Split = Literal["train", "eval"]
Pixels = NDArray[np.uint8]  # (h, w, 3), RGB

_PHOTOS = Path(__file__).parents[1] / "assets" / "photos"
_CANVAS = 176  # pixels of the longer side at which synthetic photographs are composed
_LEAST_DETAIL = 22.0  # standard deviation of a channel; a crop of plain sky could be a drawing's background


def photograph(rng: random.Random, width: int, height: int, split: Split) -> Pixels:
    """Training: a crop of a photograph (60%) or a synthetic one, with the light and blur of another camera.
    Evaluation: a crop of a photograph that training has never seen."""
    if split == "eval":
        return _crop(rng, rng.choice(_held_out()), width, height, least=0.6)
    photo = _photo(rng.randrange(len(_photo_paths())))
    if rng.random() < 0.6:
        image = _crop(rng, photo, width, height, least=0.4, turn=True)
    else:
        scale = min(1.0, _CANVAS / max(width, height))
        canvas = synthetic_photograph(rng, photo, max(16, round(width * scale)), max(16, round(height * scale)))
        image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_CUBIC)
    return _developed(rng, image)


@cache
def _photo_paths() -> tuple[Path, ...]:
    return tuple(sorted(_PHOTOS.glob("*.jpg")))


@cache
def _photo(index: int) -> Pixels:
    with Image.open(_photo_paths()[index]) as image:
        return np.asarray(image.convert("RGB"))


@cache
def _held_out() -> tuple[Pixels, ...]:
    """Imports the development dependencies scikit-image and scikit-learn; reads only what lies in their wheels."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    images = [data.astronaut(), data.camera(), data.chelsea(), data.coffee(), data.rocket()]
    images += [data.hubble_deep_field(), data.stereo_motorcycle()[0], *load_sample_images().images]
    return tuple(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image for image in images)


def _crop(rng: random.Random, image: Pixels, width: int, height: int, *, least: float, turn: bool = False) -> Pixels:
    """A part of `image` in the aspect asked for, at least `least` of what fits, mirrored or not, sometimes turned."""
    rows, columns = image.shape[:2]
    for _ in range(4):
        fit = min(columns / width, rows / height) * rng.uniform(least, 1.0)
        w, h = max(2, int(width * fit)), max(2, int(height * fit))
        x, y = rng.randint(0, columns - w), rng.randint(0, rows - h)
        part = image[y : y + h, x : x + w]
        if float(part[::4, ::4].std(axis=(0, 1)).max()) >= _LEAST_DETAIL:
            break
    if turn and rng.random() < 0.3:
        matrix = cv2.getRotationMatrix2D((w / 2, h / 2), rng.uniform(-12, 12), rng.uniform(1.0, 1.3))
        part = cv2.warpAffine(part, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    smoothing = cv2.INTER_AREA if fit > 1 else cv2.INTER_LINEAR
    resized: Pixels = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=smoothing)
    return resized


def _developed(rng: random.Random, image: Pixels) -> Pixels:
    """Exposure, contrast and colour cast; grey (10%), blurred (15%), grainy (15%)."""
    if rng.random() < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gain, lift, gamma = rng.uniform(0.75, 1.25), rng.uniform(-25, 25), math.exp(rng.uniform(-0.35, 0.35))
    cast = np.array([rng.uniform(0.9, 1.1) for _ in range(3)])
    curve = 255 * np.linspace(0, 1, 256) ** gamma
    table = ((curve[:, None] - 128) * gain * cast + 128 + lift).clip(0, 255).astype(np.uint8)
    image = cv2.LUT(image, table[None])
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
    if rng.random() < 0.15:
        noise = np.frombuffer(rng.randbytes(image.size), np.uint8).reshape(image.shape)
        share = rng.uniform(0.02, 0.1)
        image = cv2.addWeighted(image, 1.0, noise, share, -128 * share)
    return image
