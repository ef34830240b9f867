"""Pictures that were fitted lately: a conversation sends its picture again with every turn."""

from collections import OrderedDict
from dataclasses import dataclass

from PIL import Image

from serving.images.decode import Pixels


@dataclass(frozen=True)
class Picture:
    """`digest` stands for the file in vLLM's cache, at no cost to its thread. `seen_size` is the width and height at
    which the model sees it; None where only the processor knows."""

    pixels: Pixels | Image.Image
    digest: bytes
    seen_size: tuple[int, int] | None


class Kept:
    """By the file's digest, the least recently used out first. A picture that was left whole for the processor is not
    kept: such are rare and may be large."""

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
