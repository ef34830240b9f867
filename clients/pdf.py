"""The pages of a PDF as pictures, rendered here, one at a time. Needs pypdfium2 (`pip install 'onecard[pdf]'`)."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from PIL import Image

from clients.errors import PictureError
from clients.places import place

# Without a limit of the server's: A4 at 150 dots an inch, at which print is read well.
_PIXELS = 2_200_000
_PAGE = re.compile(r"#page=(\d+)$")


def is_pdf(name: object) -> bool:
    """Whether it names a file that is a PDF, with or without `#page=N` (the fragment that browsers know, counted from 1)."""
    if not isinstance(name, str | os.PathLike):
        return False
    text = os.fspath(name)
    return _PAGE.sub("", text).lower().endswith(".pdf") and "://" not in text


def page_names(name: str | os.PathLike[str]) -> list[str]:
    """`file.pdf#page=1` and so on for each of its pages; one that names a page already is alone."""
    text = os.fspath(name)
    if _PAGE.search(text):
        return [text]
    with _document(text) as document:
        return [f"{text}#page={number}" for number in range(1, len(document) + 1)]


def page_number(name: str) -> int | None:
    found = _PAGE.search(name)
    return int(found[1]) if found else None


def render(name: str | os.PathLike[str], max_pixels: int | None = None) -> Image.Image:
    """The page that `name` ends with (`#page=3`), in RGB, about `max_pixels` large. Raises PictureError and OSError."""
    text = os.fspath(name)
    number = page_number(text)
    number = 1 if number is None else number
    with _document(_PAGE.sub("", text)) as document:
        if not 1 <= number <= len(document):
            raise PictureError(f"{text}: the PDF has {len(document)} pages.")
        page = document[number - 1]
        points = max(1.0, page.get_width() * page.get_height())
        picture = page.render(scale=math.sqrt((max_pixels or _PIXELS) / points) * 0.999).to_pil()
        return picture.convert("RGB") if isinstance(picture, Image.Image) else picture


@contextlib.contextmanager
def _document(name: str) -> Iterator[Any]:
    try:
        import pypdfium2
    except ImportError as error:
        raise PictureError(f"{name} is a PDF: `pip install 'onecard[pdf]'` reads them.") from error
    data = place(name).read_bytes()
    try:
        with contextlib.closing(pypdfium2.PdfDocument(data)) as document:
            yield document
    except pypdfium2.PdfiumError as error:  # of the file, or of one of its pages
        raise PictureError(f"{name} cannot be read as a PDF ({error}).") from error
