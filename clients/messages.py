"""From pictures and a question to the messages of a chat request. Pure but for reading the pictures."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from clients import pdf
from clients.errors import PictureError
from clients.images import Picture, data_url
from clients.limits import Limits

Pictures: TypeAlias = "Picture | Sequence[Picture]"


def messages(pictures: Pictures, question: str | None, limits: Limits, system: str | None = None) -> list[Any]:
    """One turn of the user's: the pictures, then the question if there is one yet. Pages of a PDF that come together
    are numbered.

    Raises PictureError, and OSError for a file that cannot be read.
    """
    several = _in_pages(_listed(pictures))
    if limits.max_pictures is not None and len(several) > limits.max_pictures:
        raise PictureError(
            f"{len(several)} pictures, and this server takes {limits.max_pictures} in a request. "
            "Ask about fewer at a time; `file.pdf#page=3` names a single page."
        )
    content: list[dict[str, Any]] = []
    for picture in several:
        page = pdf.page_number(picture) if isinstance(picture, str) else None
        if page is not None and len(several) > 1:
            content.append({"type": "text", "text": f"Page {page}:"})
        content.append({"type": "image_url", "image_url": {"url": sent(picture, limits.max_pixels)}})
    if question is not None:
        content.append({"type": "text", "text": question})
    user = {"role": "user", "content": content}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def sent(picture: Picture, max_pixels: int | None) -> str:
    """The data URL of a picture, or of the page of a PDF."""
    if isinstance(picture, str) and pdf.is_pdf(picture):
        return data_url(pdf.render(picture, max_pixels), max_pixels)
    return data_url(picture, max_pixels)


def _listed(pictures: Pictures) -> list[Picture]:
    return list(pictures) if isinstance(pictures, list | tuple) else [pictures]  # type: ignore[list-item]


def _in_pages(pictures: list[Picture]) -> list[Picture]:
    found: list[Picture] = []
    for picture in pictures:
        remote = isinstance(picture, str) and "://" in picture
        if pdf.is_pdf(picture) and not remote:
            found.extend(pdf.page_names(picture))  # type: ignore[arg-type]
        else:
            found.append(picture)
    return found
