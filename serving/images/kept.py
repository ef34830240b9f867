"""A cache of fitted pictures: a conversation sends its pictures again with every turn."""

from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image

from serving.images.decode import Pixels


@dataclass(frozen=True)
class Picture:
    """`digest` identifies the file in vLLM's cache, which then need not hash the pixels. `seen_size` is the (width, height) at
    which the model sees it; None where only the processor knows."""

    pixels: Pixels | Image.Image
    digest: bytes
    seen_size: tuple[int, int] | None


class Kept:
    """By the file's digest; the least recently used goes first. Pictures left whole for the processor are not kept: they are
    rare, and may be large."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pictures: OrderedDict[bytes, tuple[Picture, int]] = OrderedDict()

    def get(self, digest: bytes) -> Picture | None:
        if digest not in self._pictures:
            return None
        self._pictures.move_to_end(digest)
        return self._pictures[digest][0]

    def keep(self, picture: Picture) -> None:
        if isinstance(picture.pixels, Image.Image) or picture.digest in self._pictures:
            return
        size = picture.pixels.nbytes
        self._pictures[picture.digest] = picture, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, freed) = self._pictures.popitem(last=False)
            self._bytes -= freed
