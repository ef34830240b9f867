"""The model's own pixel budget: how a picture of any size is brought to 64 to 100 merged tokens of 32 × 32 pixels.

The same rule as the `preprocessor_config.json` of the model, without torch, so that training renders what serving sees.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FACTOR = 32
MIN_PIXELS = 64 * FACTOR**2
MAX_PIXELS = 100 * FACTOR**2


def fitted_size(width: int, height: int) -> tuple[int, int]:
    """Width and height after Qwen2-VL's `smart_resize`: multiples of 32, between MIN_PIXELS and MAX_PIXELS in all."""
    fitted_width, fitted_height = round(width / FACTOR) * FACTOR, round(height / FACTOR) * FACTOR
    if fitted_width * fitted_height > MAX_PIXELS:
        shrink = math.sqrt(width * height / MAX_PIXELS)
        fitted_width = max(FACTOR, math.floor(width / shrink / FACTOR) * FACTOR)
        fitted_height = max(FACTOR, math.floor(height / shrink / FACTOR) * FACTOR)
    elif fitted_width * fitted_height < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (width * height))
        fitted_width = math.ceil(width * grow / FACTOR) * FACTOR
        fitted_height = math.ceil(height * grow / FACTOR) * FACTOR
    return fitted_width, fitted_height


def fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGB picture (h, w, 3) as the model's image processor resizes it (bicubic, antialiased)."""
    height, width = image.shape[:2]
    size = fitted_size(width, height)
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
