"""Many pictures at once: on as many threads as there are cores, within bounded memory, never on the event loop."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from serving import metrics
from serving.images.data_url import read_data_url
from serving.images.decode import Pixels
from serving.images.fit import fit
from serving.images.grid import Grid
from serving.images.header import ImageHeader, read_header
from serving.images.kept import Kept, Picture
from serving.images.limits import check_size

# More threads make nothing faster, and each costs up to 200 MB (16 megapixels with alpha).
_MOST_THREADS = 8
# Larger pictures go one at a time: decoding 64 megapixels takes up to 700 MB.
_LARGE_PIXELS = 16_000_000
_KEPT_BYTES = 64 * 2**20


class Workshop:
    """Fits pictures to a grid; without one, leaves their size to vLLM's processor."""

    def __init__(self, grid: Grid | None) -> None:
        self._grid = grid
        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, "onecard-picture", initializer=_one_core_each)
        self._large = ThreadPoolExecutor(1, "onecard-large-picture", initializer=_one_core_each)
        self._kept = Kept(_KEPT_BYTES)

    async def fit(self, source: str | bytes) -> Picture:
        """The picture in a data URL or in a file's bytes. Raises ImageError, for one that is too large before decoding it."""
        loop = asyncio.get_running_loop()
        data, header, digest = await loop.run_in_executor(self._threads, _read, source)
        if (kept := self._kept.get(digest)) is not None:
            self._record(len(data), header, kept)
            return kept
        pool = self._large if header.pixels > _LARGE_PIXELS else self._threads
        picture = self._picture(await loop.run_in_executor(pool, fit, data, header, self._grid), digest)
        self._kept.keep(picture)
        self._record(len(data), header, picture)
        return picture

    def _record(self, size: int, header: ImageHeader, picture: Picture) -> None:
        """Where the processor decides the size, the picture counts at the size that was sent."""
        width, height = picture.seen_size or (header.width, header.height)
        tokens = width * height // self._grid.side**2 if self._grid else 0
        metrics.record_image(
            received_bytes=size, received_pixels=header.pixels, fitted_pixels=width * height, tokens=tokens
        )

    def _picture(self, pixels: Pixels | Image.Image, digest: bytes) -> Picture:
        if not isinstance(pixels, Image.Image):
            return Picture(pixels, digest, (pixels.shape[2], pixels.shape[1]))
        return Picture(pixels, digest, None if self._grid is None else self._grid.fit(*pixels.size))


def _one_core_each() -> None:
    """Keeps torch from spreading one picture over the cores that others are processed on."""
    import torch

    torch.set_num_threads(1)


def _read(source: str | bytes) -> tuple[bytes, ImageHeader, bytes]:
    """The file, its header, checked, and its digest."""
    from blake3 import blake3  # comes with vLLM; several times faster than SHA-256

    began = time.perf_counter()
    data = read_data_url(source) if isinstance(source, str) else source
    header = read_header(data)
    check_size(header.width, header.height)
    digest = blake3(data).digest()
    metrics.record_image_step("fetch", time.perf_counter() - began)
    return data, header, digest
