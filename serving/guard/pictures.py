"""A picture's size, read from its header before anything is decoded, and what it will cost in tokens.

Decoding, colours and what a picture may be are the media connector's; here only what admission must know beforehand.
"""

import binascii
import io
import math
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from serving.guard.refusal import RefusalError
from serving.plan import Plan

# Enough for the header of nearly every picture; a JPEG may carry more of EXIF and colour profile before its size.
_HEADER_CHARACTERS = 64 * 1024
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
# A photograph of 64 megapixels takes 192 MB when it is decoded.
MAX_PIXELS = 64_000_000
# The marks before and after a picture in the prompt.
_MARKS = 2
_WEB = (
    "This server does not fetch pictures from the web: send the picture itself as a data URL (`onecard ask photo.jpg` and "
    "the Python client do). Whoever runs the server can allow http(s) URLs with `onecard serve --allow-image-urls`."
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

    def tokens(self, width: int, height: int) -> int:
        """Tokens in the prompt, within one row or column of patches of what the processor's rounding makes of it."""
        pixels = max(width * height, self.min_pixels)
        return min(self.max_tokens, math.ceil(pixels / self.pixels_per_token)) + _MARKS

    def unknown(self) -> int:
        """What a picture that has not been fetched yet may cost at most."""
        return self.max_tokens + _MARKS


def check_url(url: object, *, allow_web: bool) -> str:
    """The URL of a picture as text: a data URL, or one of the web where those are allowed. Raises RefusalError."""
    if not isinstance(url, str):
        raise RefusalError(
            "An `image_url` part needs a `url` that is a string.", param="messages", code="invalid_image"
        )
    if url[:5].lower() != "data:" and not (allow_web and url.startswith(("http://", "https://"))):
        raise RefusalError(_WEB, param="messages", code="invalid_image")
    return url


def data_url_size(url: str) -> tuple[int, int]:
    """(width, height) of the picture in a data URL. Raises RefusalError."""
    comma = url.find(",", 0, 256)
    if comma < 0 or not url[:comma].rstrip().lower().endswith(";base64"):
        raise RefusalError(
            "A picture's data URL must be base64, as in data:image/png;base64,…", param="messages", code="invalid_image"
        )
    end = comma + 1 + _HEADER_CHARACTERS
    try:
        return image_size(_decoded(url[comma + 1 : end]))
    except RefusalError:
        if len(url) <= end:
            raise
        return image_size(_decoded(url[comma + 1 :]))


def image_size(picture: bytes) -> tuple[int, int]:
    """(width, height) by the picture's own header; Pillow reads no pixel for it. Raises RefusalError for what is not
    JPEG, PNG, WebP or GIF, and for what is too large to be decoded."""
    try:
        with Image.open(io.BytesIO(picture), formats=_FORMATS) as image:
            width, height = image.size
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # the latter where warnings are errors
        raise _too_large() from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, KeyError, IndexError, EOFError) as error:
        raise RefusalError(
            "A picture cannot be read: JPEG, PNG, WebP and GIF are taken, whole.",
            param="messages",
            code="invalid_image",
        ) from error
    if width * height > MAX_PIXELS:
        raise _too_large()
    return width, height


def _too_large() -> RefusalError:
    return RefusalError(
        f"A picture has more than {MAX_PIXELS // 10**6} megapixels. Shrink it first.",
        param="messages",
        code="invalid_image",
    )


def _decoded(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text[: len(text) // 4 * 4])
    except ValueError as error:  # also for a character that is not ASCII
        raise RefusalError("A picture is not valid base64.", param="messages", code="invalid_image") from error
