"""Pictures on their way to a server: from whatever the caller has to a data URL no larger than the server looks at.

Owns reading, decoding, turning upright and shrinking. What the pages of a PDF look like is pdf.py's business.
"""

import base64
import contextlib
import io
import math
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from clients.errors import PictureError
from clients.places import place

if TYPE_CHECKING:
    import numpy

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | numpy.ndarray[Any, Any]"

# What vision servers read; everything else is sent as one of them.
_SENT_AS_IT_IS = frozenset({"JPEG", "PNG", "WEBP"})
_LOSSY = frozenset({"JPEG", "MPO", "WEBP", "HEIF", "AVIF"})
_JPEG_QUALITY = 92
_ORIENTATION = 0x0112
# What the numbers mean (TIFF 6.0, tag 274).
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A telephone's 50 megapixels are read; a bomb is not.
_MAX_PIXELS = 200_000_000
_MAX_DOWNLOAD = 64 * 2**20
_DOWNLOAD_TIMEOUT_S = 30.0


def data_url(picture: Picture, max_pixels: int | None = None) -> str:
    """The picture as `data:image/…;base64,…`, upright, with at most `max_pixels` pixels.

    The bytes of a file that a server reads as it is, and that is small enough, are sent untouched. Raises PictureError,
    and OSError for a file that cannot be read.
    """
    if isinstance(picture, str | os.PathLike):
        data = read(picture)
        return _encoded(data, max_pixels, name=os.fspath(picture))
    if isinstance(picture, bytes):
        return _encoded(picture, max_pixels, name="the picture")
    image = picture if isinstance(picture, Image.Image) else _from_array(picture)
    return _written(_shrunk(_upright(image), max_pixels), lossy=False)


def read(name: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, of an http(s) or data URL, or of standard input (`-`). Raises OSError and PictureError."""
    text = os.fspath(name)
    if text == "-":
        return sys.stdin.buffer.read()
    if text[:7].lower() == "http://" or text[:8].lower() == "https://":
        return _download(text)
    if text[:5].lower() == "data:":
        try:
            return base64.b64decode(text.partition(",")[2], validate=True)
        except ValueError as error:
            raise PictureError(f"{text[:40]}… is not a base64 data URL.") from error
    return place(text).read_bytes()


def opened(data: bytes, name: str = "the picture") -> Image.Image:
    """The picture, not yet decoded. Raises PictureError."""
    if data.startswith(b"%PDF-"):
        raise PictureError(f"{name} is a PDF: its pages are read from a file whose name ends with .pdf.")
    if _is_heic(data):
        _register_heic(name)
    with _picture_errors(name):
        image = Image.open(io.BytesIO(data))
    if image.width * image.height > _MAX_PIXELS:
        raise PictureError(f"{name} is {image.width}×{image.height} pixels; more than 200 megapixels are not decoded.")
    return image


def whole(picture: Picture) -> Image.Image:
    """Upright, in RGB, at its own size. Raises PictureError, and OSError for a file that cannot be read."""
    if isinstance(picture, str | os.PathLike):
        return decoded(read(picture), name=os.fspath(picture))
    if isinstance(picture, bytes):
        return decoded(picture)
    return _rgb(_upright(picture if isinstance(picture, Image.Image) else _from_array(picture)))


def decoded(data: bytes, name: str = "the picture", max_pixels: int | None = None) -> Image.Image:
    """The picture, upright, in RGB, shrunk to `max_pixels`. Raises PictureError."""
    image = opened(data, name)
    with _picture_errors(name):
        if max_pixels and image.format == "JPEG":  # the decoder halves at no cost; twice the size keeps the detail
            side = 2 * math.sqrt(max_pixels / (image.width * image.height))
            image.draft("RGB", (math.ceil(image.width * side), math.ceil(image.height * side)))
        upright = _upright(image, name)
        if image.format == "PNG" and image.mode.startswith("I;16"):
            upright = _eight_bits(upright)
        return _rgb(_shrunk(upright, max_pixels))


def _encoded(data: bytes, max_pixels: int | None, name: str) -> str:
    image = opened(data, name)
    small = max_pixels is None or image.width * image.height <= max_pixels
    if small and image.format in _SENT_AS_IT_IS and _orientation(image, name) == 1:
        return f"data:{Image.MIME[image.format]};base64,{base64.b64encode(data).decode()}"
    return _written(decoded(data, name, max_pixels), lossy=image.format in _LOSSY)


def _upright(image: Image.Image, name: str = "the picture") -> Image.Image:
    turn = _TURNS.get(_orientation(image, name))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image, name: str) -> object:
    """EXIF's, where 1 is upright; broken EXIF is no reason to refuse a picture. Raises PictureError for one that cannot be
    decoded: a truncated file is told here, with its name, not by the server."""
    with _picture_errors(name):
        image.load()
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the EXIF parser raises as freely as the decoders
        return 1


def _written(image: Image.Image, *, lossy: bool) -> str:
    buffer = io.BytesIO()
    if lossy:
        _rgb(image).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        _rgb(image).save(buffer, "PNG", compress_level=1)
    return f"data:image/{'jpeg' if lossy else 'png'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its upper byte, as servers read it. Of a PNG, whose tones go from black to white by its
    specification; a TIFF's go as far as a camera's sensor or a scanner counts."""
    return image.convert("I").point(lambda tone: tone * (1 / 256)).convert("L")


def _rgb(image: Image.Image) -> Image.Image:
    """On white where it is transparent: that is what a person sees it on."""
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "I;16", "F"):
        raise PictureError(f"A picture of mode {image.mode} has no brightness range; convert it to 8 bits a channel.")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")


def _shrunk(image: Image.Image, max_pixels: int | None) -> Image.Image:
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (image.width * image.height))
    size = (max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale)))
    # Palettes and bits cannot be averaged; their colours can.
    source = image if image.mode in ("L", "RGB", "RGBA", "CMYK") else _rgb(image)
    return source.resize(size, Image.Resampling.BICUBIC)


def _from_array(array: Any) -> Image.Image:
    """uint8 of the shape (height, width) or (height, width, 3 or 4), RGB: OpenCV's BGR must be turned by the caller."""
    shape: tuple[int, ...] = getattr(array, "shape", ())
    kind = str(getattr(array, "dtype", type(array).__name__))
    if kind != "uint8" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
        raise PictureError(
            f"An array of {kind} with the shape {shape} is no picture: uint8 of (height, width) or "
            "(height, width, 3 or 4), in RGB, is."
        )
    return Image.fromarray(array)


@contextlib.contextmanager
def _picture_errors(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name} has more pixels than any camera's: it is not decoded.") from error
    except Exception as error:  # decoders raise whatever their parsers trip over: OSError, SyntaxError, RuntimeError, …
        why = "no picture of a known kind" if isinstance(error, UnidentifiedImageError) else f"broken: {error}"
        raise PictureError(f"{name} cannot be read as a picture ({why}).") from error


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def _register_heic(name: str) -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise PictureError(f"{name} is a HEIC picture: `pip install 'onecard[heic]'` reads them.") from error
    pillow_heif.register_heif_opener()


def _download(url: str) -> bytes:
    """Fetched here, on the caller's side, so that the server need not fetch what requests name."""
    import httpx

    local = (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")
    try:
        with (
            httpx.Client(trust_env=not local, follow_redirects=True, timeout=_DOWNLOAD_TIMEOUT_S) as client,
            client.stream("GET", url, headers={"User-Agent": "onecard"}) as reply,
        ):
            reply.raise_for_status()
            data = bytearray()
            for piece in reply.iter_bytes():
                data += piece
                if len(data) > _MAX_DOWNLOAD:
                    raise PictureError(
                        f"{url} has more than {_MAX_DOWNLOAD >> 20} MiB: it is not a picture to ask about."
                    )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PictureError(f"{url} could not be fetched: {error}.") from error
    return bytes(data)
