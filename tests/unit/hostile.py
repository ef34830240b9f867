"""Pictures made to do harm, and the process that decodes them: what it took in memory is measured there, and what kills it
kills nothing else."""

import functools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from serving.images.errors import ImageError
from serving.images.fit import fit
from serving.images.grid import Grid
from serving.images.header import read_header
from serving.images.limits import check_size
from tests.drawing import blank, circle, encoded

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def outcome(data: bytes) -> tuple[str, int]:
    """What becomes of a file on its way to the model, `picture` or `refused`, and this process's peak memory so far in
    MiB. Anything else is raised."""
    try:
        header = read_header(data)
        check_size(header.width, header.height)
        fit(data, header, Grid(32, 65_536, 1_228_800))
        what = "picture"
    except ImageError:
        what = "refused"
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return what, int(peak.split()[1]) // 1024


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)
    )


def ihdr(width: int, height: int, depth: int = 8, kind: int = 2, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))


def png(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


def small() -> Image.Image:
    return circle(blank(64, 48), 32, 24, 15, "red")


@functools.cache
def zeros() -> bytes:
    """184 MiB of zeros, as 64 megapixels of black are, packed into less than one."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(184)) + packer.flush()


def exif_loop() -> bytes:
    """An EXIF directory that names itself as the next one, and as its own sub-directory."""
    entries = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0x0112, 3, 0xFFFFFFFF, 8)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8)


def with_exif(exif: bytes) -> bytes:
    """A JPEG whose first segment is that."""
    jpeg = encoded(small(), "JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def animated(kind: str, frames: int) -> bytes:
    tones = [Image.new("RGB", (64, 48), (each % 256, 0, each // 256)) for each in range(frames)]
    return encoded(tones[0], kind, save_all=True, append_images=tones[1:])  # type: ignore[arg-type]


def gif_of(width: int, height: int) -> bytes:
    """One code stream that says little and a frame that is large."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00\x3b"


def apng(frames: int, real: int) -> bytes:
    """An animated PNG that announces so many frames and brings `real`."""
    control = struct.pack(">IIIIIHHBB", 1, 64, 48, 0, 0, 1, 100, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(3 * 64) for _ in range(48)))
    more = [chunk(b"fcTL", control) + chunk(b"fdAT", struct.pack(">I", 2) + pixels) for _ in range(real)]
    return png(ihdr(64, 48), chunk(b"acTL", struct.pack(">II", frames, 0)), chunk(b"IDAT", pixels), *more)


# Name → the file; made when it is asked for, as some take a moment.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a header of 64 megapixels and nothing behind it": lambda: png(ihdr(8000, 8000)),
    "a header of 2^31 pixels": lambda: png(ihdr(2**31 - 1, 1)),
    "black of 64 megapixels in less than a MiB": lambda: png(ihdr(8000, 8000), chunk(b"IDAT", zeros())),
    "far more pixels than announced": lambda: png(ihdr(8, 8), chunk(b"IDAT", zeros())),
    "a wrong CRC of the header": lambda: png(ihdr(8, 8)[:-4] + b"oops", chunk(b"IDAT", zlib.compress(bytes(200)))),
    "a wrong CRC of the pixels": lambda: png(ihdr(8, 8), chunk(b"IDAT", zlib.compress(bytes(200)), crc=0)),
    "a colour profile of 184 MiB": lambda: png(
        ihdr(8, 8), chunk(b"iCCP", b"p\0\0" + zeros()), chunk(b"IDAT", zlib.compress(bytes(200)))
    ),
    "a text of 184 MiB": lambda: png(
        ihdr(8, 8), chunk(b"zTXt", b"t\0\0" + zeros()), chunk(b"IDAT", zlib.compress(bytes(200)))
    ),
    "100,000 texts": lambda: png(
        ihdr(8, 8), *[chunk(b"tEXt", b"k\0v")] * 100_000, chunk(b"IDAT", zlib.compress(bytes(200)))
    ),
    "a chunk of 4 GiB": lambda: SIGNATURE + ihdr(8, 8) + struct.pack(">I", 2**32 - 1) + b"IDAT" + bytes(100),
    "2^31 frames of an animated PNG": lambda: apng(2**31 - 1, 3),
    "5,000 frames of an animated PNG": lambda: apng(5000, 5000),
    "500 frames of a GIF": lambda: animated("GIF", 500),
    "100 frames of a WebP": lambda: animated("WEBP", 100),
    "a GIF of 64 megapixels in 40 bytes": lambda: gif_of(8000, 8000),
    "EXIF that goes round in a circle": lambda: with_exif(exif_loop()),
    "EXIF whose directory has 65,535 entries": lambda: with_exif(
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 65_535) + bytes(60_000)
    ),
    "a JPEG of 65,000 segments": lambda: (
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 65_000 + encoded(small(), "JPEG")[2:]
    ),
    "a JPEG that announces 60,000 pixels a side": lambda: encoded(small(), "JPEG").replace(
        struct.pack(">HH", 48, 64), struct.pack(">HH", 60_000, 1000), 1
    ),
}  # fmt: skip


def seeds() -> list[bytes]:
    """Good files of every format, to be mutilated."""
    plain = [encoded(small(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    more: list[dict[str, Any]] = [{"kind": "JPEG", "progressive": True}, {"kind": "WEBP", "lossless": True}]
    palette = encoded(small().convert("P"), "PNG")
    return [*plain, *[encoded(small(), **each) for each in more], palette, apng(3, 2), with_exif(exif_loop())]
