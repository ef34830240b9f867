"""The warm-up: real requests through vLLM's own API, inside its process, before anyone else is let in.

What compiles on first use has to be used here: kernels for one request and for as many as can run at once, for small and large
pictures, for greedy and sampled answers, with log probabilities and with a grammar.
"""

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import httpx
from PIL import Image

from serving.planning.plan import Plan

# The sizes that are tried, as shares of the largest picture: each wide, high and square.
_SHARES = (1 / 16, 1 / 4, 1.0)
_RATIOS = (4 / 3, 3 / 4, 1.0)
# A picture larger than allowed shows whether it is shrunk; two tokens mark a picture's begin and end.
_MORE_THAN_ALLOWED = 2
_AROUND_A_PICTURE = 2
_QUESTION = {"type": "text", "text": "What is in the picture?"}
_DRAWN: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.05}
_LOGPROBS: dict[str, Any] = {"temperature": 0.0, "logprobs": True, "top_logprobs": 5}
_SCHEMA = {"type": "object", "properties": {"answer": {"type": "string", "maxLength": 8}}, "required": ["answer"]}
_GRAMMAR: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
}

# A request, and a named step of requests made at once; both return the number of prompt tokens.
_Ask = Callable[..., Coroutine[Any, Any, int]]
_Step = Callable[..., Coroutine[Any, Any, int]]


async def warm_up(client: httpx.AsyncClient, model: str, plan: Plan) -> dict[str, float]:
    """A text and a picture; then, on a GPU, every kind of request alone, and as many as can run at once. Returns the seconds
    that each step took.

    Raises RuntimeError with the answer's text if a request is not answered with 200, and if a picture became more tokens than
    planned: the plan's memory would not hold.
    """
    pixels = plan.limits.max_image_pixels

    async def ask(content: list[dict[str, Any]], **options: Any) -> int:
        body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": content}]} | options
        reply = await client.post("/v1/chat/completions", json=body)
        if reply.status_code != 200:
            raise RuntimeError(f"{reply.status_code}: {reply.text[:500]}")
        return int(reply.json()["usage"]["prompt_tokens"])

    seconds: dict[str, float] = {}

    async def step(name: str, *requests: Coroutine[Any, Any, int]) -> int:
        began = time.monotonic()
        prompt_tokens = max(await asyncio.gather(*requests))
        seconds[f"warmup_{name}_s"] = round(time.monotonic() - began, 3)
        return prompt_tokens

    text_tokens = await step("text", ask([_QUESTION]))
    sees = plan.limits.max_images_per_request > 0
    if sees:
        with_picture = await step("image", ask([_picture(pixels * _MORE_THAN_ALLOWED, 4 / 3), _QUESTION]))
        _check_picture(with_picture - text_tokens, plan)
    for adapter in plan.adapters.names if plan.adapters else ():
        await step(f"adapter_{adapter}", ask([_QUESTION], model=adapter))
    if "worker_extension_cls" not in plan.engine_args:
        return seconds
    # The first use of a grammar takes seconds of a thread in the engine; everything else goes on meanwhile.
    async with _beside(step("grammar", ask([_QUESTION], **_GRAMMAR))):
        await _warm_up_a_gpu(step, ask, plan)
    return seconds


async def _warm_up_a_gpu(step: _Step, ask: _Ask, plan: Plan) -> None:
    sees = plan.limits.max_images_per_request > 0
    for number, options in enumerate((_DRAWN, _LOGPROBS)):
        await step(f"kind_{number}", ask([_QUESTION], **options))
    pictures = list(_pictures(plan.limits.max_image_pixels)) if sees else []
    for number, picture in enumerate(pictures):
        await step(f"size_{number}", ask([picture, _QUESTION]))
    # Batches of halving sizes, with pictures if there are any, then a prompt of several steps.
    together = plan.capacity.max_num_seqs
    while together > 1:
        contents = [[pictures[n % len(pictures)], _QUESTION] if pictures else [_QUESTION] for n in range(together)]
        drawn = (ask(content, **(_DRAWN if n % 2 else _LOGPROBS)) for n, content in enumerate(contents))
        await step(f"{together}_at_once", *drawn)
        together //= 2
    long = "word " * max(1, plan.capacity.max_model_len // 2)
    await step("long", ask([{"type": "text", "text": long}]))


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Runs `work` beside the block, and waits for it at the end; cancels it if the block fails."""
    task = asyncio.create_task(work)
    try:
        yield
        await task
    finally:
        task.cancel()


def _check_picture(tokens: int, plan: Plan) -> None:
    if plan.predicted and tokens > plan.capacity.image_tokens + _AROUND_A_PICTURE:
        raise RuntimeError(
            f"a picture became {tokens:,} tokens, and {plan.capacity.image_tokens:,} are planned for the largest: this vLLM "
            "or this processor does not obey the picture size that the plan sets"
        )


def _pictures(pixels: int) -> Iterator[dict[str, Any]]:
    for share in _SHARES:
        for ratio in _RATIOS:
            yield _picture(int(pixels * share), ratio)


def _picture(pixels: int, ratio: float) -> dict[str, Any]:
    """A red square on white, with `pixels` pixels and width to height as `ratio`, as a part of a message."""
    width, height = max(32, round((pixels * ratio) ** 0.5)), max(32, round((pixels / ratio) ** 0.5))
    image = Image.new("RGB", (width, height), "white")
    image.paste("red", (width // 4, height // 4, width // 2, height // 2))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
