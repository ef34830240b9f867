"""Frames of a video as pictures, sampled here: evenly spaced, as large as the server looks at, with their times. Needs PyAV
(`pip install 'onecard[video]'`)."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.errors import PictureError
from clients.places import place

# Suffix → FFmpeg's demuxer. One that was chosen by the content could be a playlist, and open what it names.
_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mp4", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
_MAX_PIXELS = 64_000_000
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Frame:
    """`seconds` from the beginning of the video."""

    seconds: float
    jpeg: bytes

    @property
    def label(self) -> str:
        """In the words that Qwen3-VL was trained on (transformers' processing_qwen3_vl.py)."""
        return f"<{self.seconds:.1f} seconds>"


def is_video(name: object) -> bool:
    return isinstance(name, str | os.PathLike) and Path(name).suffix.lower() in _FORMATS and "://" not in str(name)


def frames(name: str | os.PathLike[str], count: int, max_pixels: int | None = None) -> list[Frame]:
    """What is seen in the middle of each of `count` equal parts; fewer of a video that has not so many frames.

    Raises PictureError, and OSError for a file that cannot be read.
    """
    found: list[Frame] = []
    with _opened(place(name)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if stream.width * stream.height > _MAX_PIXELS:
            raise PictureError(f"{name} has frames of {stream.width}×{stream.height} pixels; that is no camera's.")
        first, seconds = _span(container, stream)
        for part in range(count):
            frame = _shown_at(container, stream, first + (part + 0.5) * seconds / count)
            if frame is not None and (not found or round(frame.time - first, 6) > found[-1].seconds):
                found.append(Frame(round(frame.time - first, 6), _jpeg(frame, max_pixels)))
    if not found:
        raise PictureError(f"{name} is a video without a frame.")
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import av
    except ImportError as error:
        raise PictureError(f"{path} is a video: `pip install 'onecard[video]'` reads them.") from error
    with path.open("rb") as file:
        try:
            with av.open(file, format=_FORMATS[path.suffix.lower()]) as container:
                if not container.streams.video:
                    raise PictureError(f"{path} has no pictures in it, only sound.")
                yield container
        except av.FFmpegError as error:
            raise PictureError(f"{path} cannot be read as a video ({error.strerror}).") from error


def _span(container: Any, stream: Any) -> tuple[float, float]:
    """The time of the first frame, and the seconds from there to the end. Files that were streamed do not say the latter:
    then the time of the last packet does."""
    first = float((stream.start_time or 0) * stream.time_base)
    if stream.duration:
        return first, float(stream.duration * stream.time_base)
    if container.duration:
        return first, container.duration / 1_000_000
    last = max((packet.pts for packet in container.demux(stream) if packet.pts is not None), default=0)
    return first, float(last * stream.time_base) - first


def _shown_at(container: Any, stream: Any, seconds: float) -> Any:
    """The last frame that began by then."""
    container.seek(int(seconds / stream.time_base), stream=stream)
    shown = None
    for frame in container.decode(stream):
        if shown is not None and frame.time > seconds:
            break
        shown = frame
    return shown


def _jpeg(frame: Any, max_pixels: int | None) -> bytes:
    pixels = frame.width * frame.height
    scale = min(1.0, math.sqrt(max_pixels / pixels)) if max_pixels else 1.0
    size = {"width": max(1, int(frame.width * scale)), "height": max(1, int(frame.height * scale))}
    # Telephones film lying, and note how they were held.
    image = frame.to_image(**size).rotate(frame.rotation, expand=True)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
