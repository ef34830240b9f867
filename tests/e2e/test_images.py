"""Bad pictures and unusual ones on a real server: each refused or seen rightly, and the next question answered as ever."""

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image

from tests import drawing
from tests.conftest import Server

CIRCLE = drawing.circle(drawing.blank(), 320, 240, 110, "red")
KNOWN_GOOD = drawing.encoded(CIRCLE)
WHAT = "What is in the picture?"


def data_url(image: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def post(server: Server, *urls: str, question: str = WHAT, **options: Any) -> httpx.Response:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    body = {"model": "onecard-demo", "messages": messages, "temperature": 0, **options}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120, trust_env=False)


def answer(server: Server, image: bytes, question: str = WHAT) -> str:
    reply = post(server, data_url(image), question=question)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


@pytest.fixture(autouse=True)
def _the_next_question_is_answered_as_ever(server: Server) -> Iterator[None]:
    yield
    assert "red circle" in answer(server, KNOWN_GOOD)


def refusal(reply: httpx.Response, status: int = 400) -> str:
    """The message of a refusal in OpenAI's shape, which names nothing of this machine's inside."""
    assert reply.status_code == status, reply.text
    assert len(reply.content) < 1000
    error = reply.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    for inner in ("Traceback", ".py", "/home", "/usr", "0x", "Pillow", "PIL"):
        assert inner not in error["message"]
    return str(error["message"])


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


TIFF = drawing.encoded(CIRCLE, "TIFF")
UNREADABLE = {
    "20000x20000": png_header(20_000, 20_000),
    "2 billion wide": png_header(2**31 - 1, 1),
    "zero size": png_header(0, 0),
    "truncated PNG": KNOWN_GOOD[: len(KNOWN_GOOD) // 2],
    "truncated JPEG": drawing.encoded(CIRCLE, "JPEG")[:-500],
    "empty": b"",
    "text": b"I am not a picture at all.",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(100),
    "PDF": b"%PDF-1.7\n" + bytes(100),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "FITS": b"SIMPLE  =                    T" + b" " * 2850,
    "PSD": b"8BPS\0\1" + bytes(20),
    "TIFF": TIFF,
    "BMP": drawing.encoded(CIRCLE, "BMP"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_pictures_that_are_none(server: Server, name: str) -> None:
    """Rows 23, 25 and 26; whatever type they claim to have."""
    refusal(post(server, data_url(UNREADABLE[name], "image/jpeg")))


def test_a_bomb(server: Server) -> None:
    """Row 24: 169 megapixels in a file of some kilobytes, which plain vLLM decodes into 1.3 GB."""
    bomb = drawing.encoded(Image.new("1", (13_000, 13_000)))
    assert len(bomb) < 2**19
    assert "13000" in refusal(post(server, data_url(bomb)))


def animated(kind: str) -> bytes:
    buffer = io.BytesIO()
    square = drawing.square(drawing.blank(), 320, 240, 90, "blue")
    CIRCLE.save(buffer, kind, save_all=True, append_images=[square, square], duration=100)
    return buffer.getvalue()


def palette_with_alpha() -> bytes:
    image = Image.new("P", CIRCLE.size, 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, mask=drawing.circle(Image.new("RGB", CIRCLE.size), 320, 240, 110, "white").convert("1"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([0, 255]))
    return buffer.getvalue()


def sixteen_bit() -> bytes:
    """A nearly black circle on white: all of it lies above 255, where a careless conversion sees white."""
    tones = np.where(np.asarray(CIRCLE)[:, :, 1] == 0, 0x2000, 0xFFFF).astype(np.uint16)
    return drawing.encoded(Image.fromarray(tones))


def turned() -> bytes:
    """A triangle at the left, stored upside down and declared so."""
    image = drawing.triangle(drawing.blank(800, 600, "lightyellow"), 170, 300, 100, "green")
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_180).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "question", "words"),
    [
        (drawing.encoded(CIRCLE.convert("CMYK"), "JPEG"), WHAT, ["red", "circle"]),
        (palette_with_alpha(), WHAT, ["red", "circle"]),
        (drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "black").convert("LA")), WHAT, ["black", "circle"]),
        (drawing.encoded(drawing.circle(drawing.blank(), 320, 240, 110, "black").convert("1")), WHAT, ["black", "circle"]),
        (drawing.encoded(CIRCLE.convert("RGBA")), WHAT, ["red", "circle"]),
        (sixteen_bit(), "What shape is in the picture?", ["circle"]),
        (animated("GIF"), WHAT, ["red", "circle"]),
        (animated("WEBP"), WHAT, ["red", "circle"]),
        (turned(), "Where is the triangle?", ["left"]),
        (drawing.encoded(CIRCLE.resize((4032, 3024)), "JPEG"), WHAT, ["red", "circle"]),
    ],
    ids=["CMYK", "palette with alpha", "LA", "1-bit", "RGBA", "16-bit", "GIF", "WebP", "EXIF", "12 megapixels"],
)  # fmt: skip
def test_unusual_pictures_are_seen_rightly(server: Server, image: bytes, question: str, words: list[str]) -> None:
    """Rows 27 to 30."""
    said = answer(server, image, question)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (4000, 158), (200, 1), (20_000, 100)])
def test_strange_shapes(server: Server, size: tuple[int, int]) -> None:
    """Row 31: an answer or a refusal."""
    reply = post(server, data_url(drawing.encoded(Image.new("RGB", size, "red"))))
    if reply.status_code != 200:
        refusal(reply)


@pytest.mark.parametrize("declared", ["image/gif", "application/pdf", "text/html", ""])
def test_the_declared_type_says_nothing(server: Server, declared: str) -> None:
    """Row 32."""
    reply = post(server, data_url(KNOWN_GOOD, declared))
    assert "red circle" in reply.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64,@@@", "data:", "data:;base64,abc"])
def test_broken_data_urls(server: Server, url: str) -> None:
    """Row 33."""
    refusal(post(server, url))


def test_huge_base64(server: Server) -> None:
    """Row 34."""
    limit_mib = server.get("/onecard/status").json()["limits"]["max_body_mib"]
    refusal(post(server, "data:image/png;base64," + "A" * (limit_mib * 2**20)), 413)


def test_more_pictures_than_allowed(server: Server) -> None:
    """Row 35: refused before the first, which is no picture, is looked at."""
    allowed = server.get("/onecard/status").json()["limits"]["max_images_per_request"]
    message = refusal(post(server, *[data_url(b"no picture")] * (allowed + 1)))
    assert str(allowed) in message


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x.png", "https://example.com/x.png", "file:///etc/passwd", "ftp://example.com/x"],
)
def test_web_addresses_are_not_fetched(server: Server, url: str) -> None:
    """Row 36 and the default of 37 to 43."""
    assert "--allow-image-urls" in refusal(post(server, url))


@pytest.mark.parametrize("url", ["x.png", "", "iVBORw0KGgo="])
def test_what_is_no_address_is_told_to_be_a_data_url(server: Server, url: str) -> None:
    assert "data:image/png;base64," in refusal(post(server, url))


def test_the_sdk_raises_its_own_class(client: OpenAI) -> None:
    content: Any = [{"type": "image_url", "image_url": {"url": data_url(b"no picture")}}, {"type": "text", "text": "?"}]
    messages: Any = [{"role": "user", "content": content}]
    with pytest.raises(BadRequestError, match="JPEG, PNG, WebP or GIF"):
        client.chat.completions.create(model="onecard-demo", messages=messages)


@pytest.mark.parametrize("stream", [False, True])
def test_the_size_that_the_model_saw_is_told(server: Server, stream: bool) -> None:
    wide = drawing.encoded(CIRCLE.resize((3000, 1500)), "JPEG")
    reply = post(server, data_url(KNOWN_GOOD), data_url(wide), stream=stream)
    assert reply.headers["x-onecard-image-sizes"] == "352x256, 448x224"


def test_the_ask_route_tells_it_too(server: Server) -> None:
    reply = httpx.post(f"{server.url}/ask", files={"image": KNOWN_GOOD}, timeout=60, trust_env=False)
    assert reply.headers["x-onecard-image-sizes"] == "352x256"


def test_an_answer_about_text_tells_no_size(server: Server) -> None:
    assert "x-onecard-image-sizes" not in post(server, question="Who are you?").headers
