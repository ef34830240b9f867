"""From pictures and a question to the messages of a chat request. Pure but for reading the pictures."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from clients import pdf, video
from clients.errors import PictureError
from clients.images import Picture, data_url
from clients.limits import Limits

Pictures: TypeAlias = "Picture | Sequence[Picture]"


def messages(pictures: Pictures, question: str | None, limits: Limits, system: str | None = None) -> list[Any]:
    """One turn of the user's: the pictures, then the question if there is one yet. Pages of a PDF that come together
    are numbered, frames of a video bear their times.

    Raises PictureError, and OSError for a file that cannot be read.
    """
    several = _in_pages(_listed(pictures))
    each = _frames_each(several, limits)
    content: list[dict[str, Any]] = []
    for picture in several:
        for label, data in _parts(picture, each, limits, alone=len(several) == 1):
            if label is not None:
                content.append({"type": "text", "text": label})
            content.append({"type": "image_url", "image_url": {"url": data}})
    if question is not None:
        content.append({"type": "text", "text": question})
    user = {"role": "user", "content": content}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def _parts(picture: Picture, frames: int, limits: Limits, *, alone: bool) -> Iterator[tuple[str | None, str]]:
    """What stands before a picture, and its data URL."""
    if isinstance(picture, str | os.PathLike) and video.is_video(picture):
        pixels = min((each for each in (limits.max_frame_pixels, limits.max_pixels) if each), default=None)
        for frame in video.frames(picture, frames, pixels):
            yield frame.label, data_url(frame.jpeg, pixels)
    elif isinstance(picture, str) and pdf.is_pdf(picture):
        page = pdf.page_number(picture)
        label = None if alone or page is None else f"Page {page}:"
        yield label, data_url(pdf.render(picture, limits.max_pixels), limits.max_pixels)
    else:
        yield None, data_url(picture, limits.max_pixels)


def _frames_each(pictures: list[Picture], limits: Limits) -> int:
    """How many frames each video is sent as. Raises PictureError for more pictures than the server takes."""
    videos = sum(map(video.is_video, pictures))
    others = len(pictures) - videos
    room = limits.max_pictures
    if room is not None and others + videos > room:
        raise PictureError(
            f"{len(pictures)} pictures, and this server takes {room} in a request. "
            "Ask about fewer at a time; `file.pdf#page=3` names a single page."
        )
    if videos and not limits.max_frames:
        raise PictureError(
            "This server takes no videos. onecard does with the key `video` in the profile, and tells how many frames at "
            "/onecard/status (`limits.max_video_frames`)."
        )
    most = limits.max_frames if room is None else min(limits.max_frames, room - others)
    return max(1, most // videos) if videos else 0


def _listed(pictures: Pictures) -> list[Picture]:
    return list(pictures) if isinstance(pictures, list | tuple) else [pictures]  # type: ignore[list-item]


def _in_pages(pictures: list[Picture]) -> list[Picture]:
    found: list[Picture] = []
    for picture in pictures:
        if pdf.is_pdf(picture):
            found.extend(pdf.page_names(picture))  # type: ignore[arg-type]
        else:
            found.append(picture)
    return found
