"""From a file's bytes to RGB as a person sees it: the first frame, alpha on white, 16 bits reduced to 8.

Owns colours and formats; sizes belong to limits.py and fit.py.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from serving.images.errors import ImageError
from serving.images.header import ImageHeader

Pixels = npt.NDArray[np.uint8]

_EXIF_ORIENTATION = 0x0112
# Each scan of a progressive JPEG decodes the whole picture again, and may be a few bytes long; encoders write about ten.
_MAX_JPEG_SCANS = 100
_START_OF_SCAN = b"\xff\xda"


def decode(data: bytes, header: ImageHeader, at_least: tuple[int, int] | None = None) -> tuple[Pixels, int]:
    """The picture as the file stores it, uint8 of the shape (height, width, 3), and its EXIF orientation (1 to 8, where
    1 is upright).

    With `at_least` (width and height) a JPEG is decoded at the smallest of 1, 1/2, 1/4, 1/8 that is still that large: the
    decoder skips coefficients, which is cheaper than any resize afterwards. Raises ImageError for whatever cannot be decoded
    completely.
    """
    if header.format == "JPEG" and (scans := data.count(_START_OF_SCAN)) > _MAX_JPEG_SCANS:
        raise ImageError(cause=f"a JPEG of {scans} scans")
    try:
        image: Any = Image.open(io.BytesIO(data), formats=[header.format])
        if image.size != (header.width, header.height):
            raise ImageError(cause=f"Pillow sees {image.size} where the header says {header}")
        if header.format == "JPEG":
            if image.mode != "CMYK" and (pixels := _jpeg(data, at_least)) is not None:
                return pixels, _orientation(image)
            image.draft(None, at_least)
        image.load()
        return np.array(_rgb(image)), _orientation(image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever their parsers trip over: OSError, SyntaxError, struct.error, …
        raise ImageError(cause=f"{header}: {type(error).__name__}: {error}") from error


def _jpeg(data: bytes, at_least: tuple[int, int] | None) -> Pixels | None:
    """Pillow's pixels in half the time: the same library, decoding straight into the array. None if it complains of anything:
    then Pillow decides whether the file is good enough."""
    width, height = at_least or (0, 0)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2)
    except ValueError:
        return None
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The upper byte of 16-bit grey, as Pillow does for 16-bit colour; for grey, Pillow would clip everything above 255 to
    white. A tone that the file declares transparent becomes white."""
    tones = np.asarray(image)
    if (transparent := image.info.get("transparency")) is not None:
        tones = np.where(tones == transparent, 0xFFFF, tones)
    return Image.fromarray((tones >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, read after loading: a PNG may have it behind its pixels. Broken EXIF is no reason to refuse."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # the EXIF parser raises as freely as the decoders
        return 1
    return value if value in range(1, 9) else 1
