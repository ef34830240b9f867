"""How long does one client wait? Time to first token, seconds for the whole answer, tokens per second.

One request at a time, each about another picture, through the official SDK with streaming. The answers' length is
fixed, so that runs can be compared.
"""

import base64
import statistics
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from openai import OpenAI

_TOKENS = 64
_WIDTH, _HEIGHT = 1024, 768


@dataclass(frozen=True)
class Sample:
    """Seconds of one request, from its sending."""

    first_token_s: float
    total_s: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Of decoding alone: the first token is not counted, nor the wait for it."""
        return (self.tokens - 1) / (self.total_s - self.first_token_s)


def measure(client: OpenAI, model: str, count: int) -> list[Sample]:
    """`count` requests, one after the other, after one that is not counted."""
    rng = np.random.default_rng(1)
    return [_ask(client, model, _picture(rng)) for _ in range(count + 1)][1:]


def summary(samples: list[Sample]) -> dict[str, float]:
    """Medians, and the slowest first token."""
    return {
        "first_token_s": round(statistics.median(each.first_token_s for each in samples), 4),
        "first_token_slowest_s": round(max(each.first_token_s for each in samples), 4),
        "total_s": round(statistics.median(each.total_s for each in samples), 4),
        "tokens_per_s": round(statistics.median(each.tokens_per_s for each in samples), 1),
    }


def _ask(client: OpenAI, model: str, picture: str) -> Sample:
    content: Any = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    messages: Any = [{"role": "user", "content": content}]
    began = time.perf_counter()
    first = 0.0
    tokens = 0
    for chunk in client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter()
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return Sample(first - began, time.perf_counter() - began, tokens)


def _picture(rng: np.random.Generator) -> str:
    """A JPEG of 1024×768 pixels with structure at every scale, as a photograph has; never the same twice."""
    image = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
    for cells in (4, 16, 64, 256):
        noise = rng.normal(0, 160 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    done, jpeg = cv2.imencode(".jpg", np.clip(image + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
