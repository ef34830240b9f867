"""What a request's pictures are and will cost, by their headers: nothing is decoded here and nothing fetched.

Formats and bounds are `serving/images`'s; here is how a picture stands in a request.
"""

import binascii
import contextlib
import math
import re
from dataclasses import dataclass

from serving.guard.refusal import RefusalError
from serving.images.data_url import BROKEN
from serving.images.errors import HeaderCutOffError, ImageError
from serving.images.header import ImageHeader, read_header
from serving.images.limits import check_size
from serving.planning.plan import Plan

# Characters that are enough for the header of most pictures, of nearly every phone's (EXIF with a small picture stands before
# the size), and then all of it. Decoding base64 was a third of what the guard took for a request.
_BEGINNINGS = (4 * 1024, 64 * 1024)
# The marks before and after a picture in the prompt.
_MARKS = 2
_WEB = (
    "This server does not fetch pictures from the web: send the picture itself as a data URL (`onecard ask photo.jpg` and "
    "the Python client do). Whoever runs the server can allow http(s) URLs with `onecard serve --allow-image-urls`."
)
_ADDRESS = re.compile(r"[a-z]+://", re.IGNORECASE)
_NO_URL = (
    "A picture's `url` must be a data URL, data:image/png;base64,… with the file's bytes, not base64 alone or a path."
)


@dataclass(frozen=True)
class PictureCost:
    """What pictures cost in this plan: its budget of pixels, and how many of them make a token."""

    max_tokens: int
    min_pixels: int
    pixels_per_token: int

    @classmethod
    def of(cls, plan: Plan) -> "PictureCost":
        most = max(1, plan.capacity.image_tokens)
        size = plan.engine_args.get("mm_processor_kwargs", {}).get("size", {})
        return cls(most, int(size.get("shortest_edge", 0)), max(1, plan.limits.max_image_pixels // most))

    def tokens(self, pixels: int) -> int:
        """Tokens in the prompt, within one row or column of patches of what the processor's rounding makes of it."""
        return min(self.max_tokens, math.ceil(max(pixels, self.min_pixels) / self.pixels_per_token)) + _MARKS

    def unknown(self) -> int:
        """What a picture that has not been fetched yet may cost at most."""
        return self.max_tokens + _MARKS


def check_url(url: object, *, allow_web: bool) -> str:
    """The URL of a picture as text: a data URL, or one of the web where those are allowed. Raises RefusalError."""
    if not isinstance(url, str):
        raise _refusal('An `image_url` part needs an object with a `url`, as in {"url": "data:image/png;base64,…"}.')
    if url[:5].lower() == "data:" or (allow_web and url.startswith(("http://", "https://"))):
        return url
    raise _refusal(_WEB if _ADDRESS.match(url) else _NO_URL)


def data_url_pixels(url: str) -> int:
    """Pixels of the picture in a data URL. Raises RefusalError for what is no picture, or too large to be decoded."""
    comma = url.find(",", 0, 256)
    if comma < 0 or not url[:comma].rstrip().lower().endswith(";base64"):
        raise _refusal("A picture's data URL must be base64, as in data:image/png;base64,…")
    try:
        header = _header(url, comma + 1)
        check_size(header.width, header.height)
    except ImageError as error:
        raise _refusal(str(error)) from error
    return header.pixels


def _header(url: str, start: int) -> ImageHeader:
    for length in _BEGINNINGS:
        if len(url) > start + length:
            with contextlib.suppress(HeaderCutOffError):
                return read_header(_decoded(url[start : start + length]))
    return read_header(_decoded(url[start:]))


def _decoded(text: str) -> bytes:
    try:
        text = "".join(text.split())
        return binascii.a2b_base64(text[: len(text) // 4 * 4])
    except ValueError as error:  # also for a character that is not ASCII
        raise _refusal(BROKEN) from error


def _refusal(message: str) -> RefusalError:
    return RefusalError(message, param="messages", code="invalid_image")
