"""The warm-up: real requests through vLLM's own API, inside its process, before anyone else is let in."""

import base64
import io
import time
from typing import Any

import httpx
from PIL import Image


async def warm_up(client: httpx.AsyncClient, model: str) -> dict[str, float]:
    """One request about text and one about a picture; returns the seconds that each took.

    Raises RuntimeError with the answer's text when one is not answered with 200.
    """
    text = {"type": "text", "text": "What is in the picture?"}
    picture = {"type": "image_url", "image_url": {"url": _picture()}}
    seconds: dict[str, float] = {}
    for name, content in (("warmup_text_s", [text]), ("warmup_image_s", [picture, text])):
        began = time.monotonic()
        body: dict[str, Any] = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
        reply = await client.post("/v1/chat/completions", json=body)
        if reply.status_code != 200:
            raise RuntimeError(f"{reply.status_code}: {reply.text[:500]}")
        seconds[name] = round(time.monotonic() - began, 3)
    return seconds


def _picture() -> str:
    """A 640×480 picture of a red square as a data URL."""
    image = Image.new("RGB", (640, 480), "white")
    image.paste("red", (240, 160, 400, 320))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
