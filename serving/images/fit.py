"""One picture from its bytes to the pixels that the model sees. Runs on a worker thread: Pillow and torch release the GIL while
they work."""

import time
from typing import Any

import numpy as np
from PIL import Image

from serving import metrics
from serving.images.decode import Pixels, decode
from serving.images.grid import Grid
from serving.images.header import ImageHeader

# A JPEG is decoded at this many times its final size or more. Decoding smaller loses fine print that a resize from the whole
# picture would keep: at 1.5 a page of small text differs from the reference by 3.6 of 255, at 2 by 2.
_DETAIL = 2
# By EXIF orientation: the axes to mirror (1 height, 2 width), from 5 on after transposing (TIFF 6.0, tag 274).
_MIRRORED = {1: (), 2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}


def fit(data: bytes, header: ImageHeader, grid: Grid | None) -> Pixels | Image.Image:
    """The picture, upright, at its size on the grid: uint8 of the shape (3, height, width), contiguous.

    Without a grid, or where the processor would resize even that, the whole picture in RGB instead, for the processor to
    resize. Raises ImageError for a picture that cannot be decoded.
    """
    size = None if grid is None else grid.fit(header.width, header.height)
    if grid is None or size is None or not grid.leaves(*size):
        whole, orientation = decode(data, header)
        return Image.fromarray(_upright(_tensor(whole), orientation).permute(1, 2, 0).numpy())
    began = time.perf_counter()
    pixels, orientation = decode(data, header, at_least=detail(*size))
    decoded = time.perf_counter()
    fitted = resize(pixels, size, orientation)
    metrics.record_image_step("decode", decoded - began)
    metrics.record_image_step("process", time.perf_counter() - decoded)
    return fitted


def detail(width: int, height: int) -> tuple[int, int]:
    """The size (width, height) at which, or above which, a JPEG of that final size is decoded."""
    return _DETAIL * width, _DETAIL * height


def resize(pixels: Pixels, size: tuple[int, int], orientation: int = 1) -> Pixels:
    """From (height, width, 3) to (3, height, width): bicubic with antialiasing by the reference processor's own kernel, in a
    third of Pillow's time. `size` is (width, height) before the picture is turned upright: that comes last, when the picture
    is small, since a turned picture fits the turned grid."""
    import torch

    width, height = size
    if pixels.shape[:2] == (height, width):
        tensor = torch.from_numpy(_by_colour(pixels))
    else:
        shape = (height, width)
        tensor = torch.nn.functional.interpolate(_tensor(pixels)[None], size=shape, mode="bicubic", antialias=True)[0]
    upright: Pixels = _upright(tensor, orientation).contiguous().numpy()
    return upright


def _by_colour(pixels: Pixels) -> Pixels:
    """(3, height, width) anew, in a quarter of the time that torch or numpy take for it."""
    import cv2  # comes with vLLM

    colours = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(colours))
    return colours


def _tensor(pixels: Pixels) -> Any:
    """(3, height, width), not contiguous: a view of the decoder's memory, which torch resizes fastest."""
    import torch

    return torch.from_numpy(pixels).permute(2, 0, 1)


def _upright(pixels: Any, orientation: int) -> Any:
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    return pixels.flip(_MIRRORED[orientation]) if _MIRRORED[orientation] else pixels
