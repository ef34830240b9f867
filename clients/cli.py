"""`onecard ask`: the thin client on the command line."""

import os
import sys
import time

from clients.client import Client

_MEASURABLE_S = 0.02


def ask(images: list[str], question: str, url: str, max_tokens: int | None) -> None:
    """Streams the answer to stdout, then time to first token and speed to stderr. Raises OSError and openai.APIError."""
    client = Client(url, os.environ.get("ONECARD_API_KEY", "none"))
    options = {} if max_tokens is None else {"max_completion_tokens": max_tokens}
    began = time.monotonic()
    first = tokens = 0.0
    with client.openai:
        for chunk in client.stream(images, question, **options):
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                first = first or time.monotonic()
                sys.stdout.write(text)
                sys.stdout.flush()
            if chunk.usage:
                tokens = chunk.usage.completion_tokens
    sys.stdout.write("\n")
    sys.stdout.flush()
    if not first:
        sys.stderr.write("[the answer is empty]\n")
        return
    now = time.monotonic()
    if tokens > 1 and now - first > _MEASURABLE_S:
        speed = f"{(tokens - 1) / (now - first):.0f} tokens/s"
    else:  # it came in one piece: what can be told is the speed of the whole
        speed = f"{tokens / (now - began):.0f} tokens/s in all"
    sys.stderr.write(f"[first token after {first - began:.2f} s, {speed}]\n")
