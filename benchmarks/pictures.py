"""Pictures to ask about: JPEGs with structure at every scale, as photographs have, each different from every other.

Random pixels would not do: they hardly compress, so that a benchmark of them measures the decoding of noise.
"""

import base64
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

_QUALITY = 85
# Amplitude of each octave, in grey levels: it falls with the square root of the frequency, and the last is a sensor's noise.
_CELLS = (4, 16, 64, 256)
_GRAIN = 4.0


def data_urls(numbers: Iterable[int], width: int, height: int) -> list[str]:
    """Picture number n is the same in every run, so that all contenders see the same ones."""
    _texture(width, height)  # once, before the threads need it
    with ThreadPoolExecutor() as threads:  # OpenCV encodes without the GIL
        return list(threads.map(lambda number: _data_url(number, width, height), numbers))


def jpeg(number: int, width: int, height: int) -> bytes:
    """Two cuts of a large texture, mixed: as cheap as a copy, and never the same twice."""
    rng = np.random.default_rng(number)
    texture = _texture(width, height)
    first, second = (texture[y : y + height, x : x + width] for y, x in _corners(rng, texture, width, height))
    mixed = cv2.addWeighted(first, float(rng.uniform(0.55, 0.75)), second, 0.4, 0)
    done, encoded = cv2.imencode(".jpg", mixed, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return encoded.tobytes()


def _data_url(number: int, width: int, height: int) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(number, width, height)).decode()


def _corners(
    rng: np.random.Generator, texture: npt.NDArray[np.uint8], width: int, height: int
) -> list[tuple[int, int]]:
    rows, columns = texture.shape[0] - height, texture.shape[1] - width
    return [(int(rng.integers(rows)), int(rng.integers(columns))) for _ in range(2)]


@lru_cache(maxsize=8)
def _texture(width: int, height: int) -> npt.NDArray[np.uint8]:
    """A texture of 1.5 times the picture's edges."""
    rng = np.random.default_rng(1)
    size = (width * 3 // 2 + 1, height * 3 // 2 + 1)
    image = rng.normal(0, _GRAIN, (size[1], size[0], 3)).astype(np.float32)
    for cells in _CELLS:
        noise = rng.normal(0, 160 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 128, 0, 255).astype(np.uint8)
