"""Format and size of a picture from its first bytes, in microseconds and without decoding anything.

Only the bytes count, never a declared type. JPEG, PNG, WebP and GIF are known; anything else (SVG, HEIC, TIFF, PDF, text) is
refused with the same message.
"""

import struct
from dataclasses import dataclass
from typing import Literal

from serving.images.errors import HeaderCutOffError, ImageError

ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF"]

# Start-of-frame markers of ITU-T T.81, table B.1: C0 to CF but DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and RST0 to RST7.
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_JPEG_END = frozenset({0xD9, 0xDA})  # end of image, start of scan: no frame came before it


@dataclass(frozen=True)
class ImageHeader:
    """`width` and `height` in pixels as the file stores them. An EXIF orientation may swap them later, which changes neither
    the number of pixels nor of tokens."""

    format: ImageFormat
    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def read_header(data: bytes) -> ImageHeader:
    """The header of a file that begins with `data`.

    64 KiB are enough for almost every file, though a JPEG may have more metadata than that before its size. Raises
    HeaderCutOffError where `data` ends too early, and ImageError for any other format and for a picture without pixels.
    Whether the size is acceptable is checked by `limits.check_size`.
    """
    try:
        header = _parse(data)
    except (struct.error, IndexError) as error:
        raise HeaderCutOffError(cause=f"the header is cut off after {len(data):,} bytes") from error
    if header.width < 1 or header.height < 1:
        raise ImageError(cause=f"a {header.format} of {header.width}×{header.height} pixels")
    return header


def _parse(data: bytes) -> ImageHeader:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif(data)
    raise ImageError(cause=f"not a JPEG, PNG, WebP or GIF; it begins with {data[:16]!r}")


def _png(data: bytes) -> ImageHeader:
    """Signature, then the IHDR chunk: length, name, width, height (PNG specification, 11.2.1)."""
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        raise ImageError(cause=f"a PNG whose first chunk is {name!r} of {length} bytes")
    return ImageHeader("PNG", width, height)


def _jpeg(data: bytes) -> ImageHeader:
    """Walks the marker segments up to the frame header: length, precision, height, width (ITU-T T.81, B.2.2)."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ImageError(cause=f"a JPEG without a marker at byte {at}")
        while data[at] == 0xFF:  # any number of fill bytes may precede a marker
            at += 1
        marker = data[at]
        at += 1
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return ImageHeader("JPEG", width, height)
        if marker in _JPEG_END:
            raise ImageError(cause="a JPEG without a frame header")
        if marker not in _JPEG_BARE:
            (length,) = struct.unpack_from(">H", data, at)
            at += max(2, length)


def _gif(data: bytes) -> ImageHeader:
    """The logical screen, or the first frame where it reaches beyond (GIF89a specification, 18 to 20)."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _color_table(flags)
    while data[at] == 0x21:  # extensions: a label, then sub-blocks up to an empty one
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    if data[at] != 0x2C:
        raise ImageError(cause="a GIF without a frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    if not frame_width or not frame_height:
        raise ImageError(cause="a GIF whose first frame is empty")
    return ImageHeader("GIF", max(width, left + frame_width), max(height, top + frame_height))


def _color_table(flags: int) -> int:
    """Bytes of the colour table that `flags` announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> ImageHeader:
    """The first chunk: lossy, lossless or extended (WebP container specification; RFC 6386, 9.1)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = struct.unpack("<I", data[24:27] + b"\0")[0], struct.unpack("<I", data[27:30] + b"\0")[0]
        return ImageHeader("WEBP", width + 1, height + 1)
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise ImageError(cause="a lossless WebP without its signature")
        return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise ImageError(cause="a lossy WebP that does not begin with a key frame")
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF)
    if len(data) < 16:
        raise HeaderCutOffError(cause="a WebP of fewer than 16 bytes")
    raise ImageError(cause=f"a WebP whose first chunk is {kind!r}")
