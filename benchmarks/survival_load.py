"""What the clients of `survival` send: the largest pictures and the most of them that are allowed, all distinct, mixed with
long texts. From processes of their own: drawing pictures takes more CPU than asking about them.
"""

import asyncio
import base64
import io
import multiprocessing
import threading
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
from PIL import Image

from serving.planning.plan import Plan

_CLIENTS = 64
_PROCESSES = 4
_ANSWER_TOKENS = 64
_PHOTO = (1280, 960)


def ask(port: int, plan: Plan, seconds: float, stopping: threading.Event) -> dict[str, int]:
    """How many answers of each kind the clients got, from processes of their own."""
    limits = (plan.limits.max_image_pixels, plan.limits.max_images_per_request, plan.capacity.max_model_len)
    context = multiprocessing.get_context("spawn")
    with context.Pool(_PROCESSES) as pool:
        each = _CLIENTS // _PROCESSES
        work = [(port, limits, each, number, seconds) for number in range(_PROCESSES)]
        found = pool.starmap_async(_clients, work)
        while not found.ready() and not stopping.is_set():
            found.wait(0.5)
        return dict(sum(found.get(), Counter[str]())) if found.ready() else {}


def answers(port: int, plan: Plan) -> bool:
    limits = (plan.limits.max_image_pixels, plan.limits.max_images_per_request, plan.capacity.max_model_len)
    return _clients(port, limits, 1, 99, 1).get("200", 0) > 0


def _clients(port: int, limits: tuple[int, int, int], count: int, number: int, seconds: float) -> "Counter[str]":
    return asyncio.run(_all_clients(port, limits, count, number, seconds))


async def _all_clients(
    port: int, limits: tuple[int, int, int], count: int, number: int, seconds: float
) -> "Counter[str]":
    counted: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    base = f"http://127.0.0.1:{port}/v1"
    limit = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=180, limits=limit, trust_env=False) as client:
        try:
            reply = (await client.get(f"{base}/models")).raise_for_status()
        except httpx.HTTPError as error:  # it has died since it was last asked
            return Counter({type(error).__name__: 1})
        model = reply.json()["data"][0]["id"]

        async def one(which: int) -> None:
            turn = 0
            while time.monotonic() < ends:
                turn += 1
                body = await asyncio.to_thread(_body, model, limits, (number * 1000 + which) * 10_000 + turn)
                try:
                    reply = await client.post(f"{base}/chat/completions", json=body)
                    counted[str(reply.status_code)] += 1
                    if reply.status_code != 200:
                        counted[f"{reply.status_code}: {reply.text[:120]}"] += 1
                        await asyncio.sleep(min(2.0, float(reply.headers.get("retry-after", 1))))
                except httpx.HTTPError as error:
                    counted[type(error).__name__] += 1
                    await asyncio.sleep(1)

        await asyncio.gather(*(one(which) for which in range(count)))
    return counted


def _body(model: str, limits: tuple[int, int, int], seed: int) -> dict[str, Any]:
    """By turns: one largest picture, as many of the largest as fit, as many small ones, and a text as long as fits."""
    pixels, images, context = limits
    wide, high = _size(pixels)
    tokens = wide * high // 1024 + 4
    room = context - _ANSWER_TOKENS - 64
    kind = seed % 5
    if kind == 4:
        # The number comes first: texts with the same beginning would lie in the same blocks of the KV cache.
        content: Any = f"{seed} " + "word " * (room - 16)
    else:
        size = (320, 320) if kind == 3 else (wide, high)
        most = images if kind == 3 else max(1, min(images, room // tokens))
        many = most if kind in (2, 3) else 1
        content = [{"type": "image_url", "image_url": {"url": _picture(size, seed * 16 + n)}} for n in range(many)]
        content.append({"type": "text", "text": "What is this?"})
    return {"model": model, "max_tokens": _ANSWER_TOKENS, "messages": [{"role": "user", "content": content}]}


def _size(pixels: int) -> tuple[int, int]:
    """Width and height in the proportions of a photo, on the grid of 32 pixels."""
    scale = (pixels / (_PHOTO[0] * _PHOTO[1])) ** 0.5
    return int(_PHOTO[0] * scale) // 32 * 32, int(_PHOTO[1] * scale) // 32 * 32


def _picture(size: tuple[int, int], seed: int) -> str:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
