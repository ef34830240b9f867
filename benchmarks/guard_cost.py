"""`python -m benchmarks.guard_cost`: what the whole guard costs a request with one picture, in CPU time of one core.

A stand-in for vLLM reads the body and streams an answer, once by itself and once behind the guard as the server has it;
the difference is the guard's. Two figures, since they grow with different things: a request with its picture, and an event
of its stream. No server and no engine: what a request waits for is `benchmarks speed`'s question.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from benchmarks.metrics_cost import vllm
from benchmarks.pictures import data_urls
from serving.guard.stack import Guard
from serving.ipc.launch import ENVIRONMENT_KEY, Launch
from serving.prepare import prepare

_ROUNDS, _REQUESTS = 5, 60
_PATH = "/v1/chat/completions"
_EVENTS, _PIECE = 128, 64 * 1024
# vLLM's application, of which the guard asks whether the engine is alive.
_VLLM = SimpleNamespace(state=SimpleNamespace(engine_client=SimpleNamespace(errored=False)))


def guarded(app: ASGIApp) -> ASGIApp:
    """The guard of a server that is ready."""
    guard = Guard(app)
    guard.state.ready()
    return guard


async def ask(app: ASGIApp, body: bytes) -> None:
    """One request, its body in pieces as a connection brings it. Raises RuntimeError where it is refused."""
    pieces = [body[start : start + _PIECE] for start in range(0, len(body), _PIECE)]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"refused with {message['status']}")

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(body)).encode()))
    scope: Scope = {"type": "http", "method": "POST", "path": _PATH, "raw_path": _PATH.encode(), "query_string": b""}
    await app({**scope, "headers": headers, "client": ("127.0.0.1", 1), "app": _VLLM}, receive, send)


async def milliseconds(app: ASGIApp, model: str) -> float:
    """CPU time of a request with a picture of its own, the best of several rounds."""
    best = float("inf")
    for number in range(_ROUNDS):
        urls = data_urls(range(number * _REQUESTS, (number + 1) * _REQUESTS), 1024, 768)
        bodies = [_body(url, model) for url in urls]
        began = time.process_time()
        for body in bodies:
            await ask(app, body)
        best = min(best, time.process_time() - began)
    return best / _REQUESTS * 1e3


def _body(url: str, model: str) -> bytes:
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Describe it."},
    ]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 128,
        "stream": True,
    }
    return json.dumps(body | {"temperature": 0.7, "top_p": 0.8, "top_k": 20}).encode()


def main() -> None:
    """Prints the figures."""
    argparse.ArgumentParser(prog="python -m benchmarks.guard_cost", description="What the guard costs.").parse_args()
    logging.getLogger("onecard.requests").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare("rtx4090", "qwen3-vl-2b-awq")
        launch = Launch(
            plan=prepared.plan, model_folder=Path(folder), default_max_tokens=128, host="127.0.0.1", port=8000,
            run_dir=Path(folder),
        )  # fmt: skip
        os.environ[ENVIRONMENT_KEY] = str(launch.write())
        model = launch.model_names[0]
        whole = {events: asyncio.run(milliseconds(guarded(vllm(events)), model)) for events in (0, _EVENTS)}
        bare = {events: asyncio.run(milliseconds(vllm(events), model)) for events in (0, _EVENTS)}
    request, all_events = whole[0] - bare[0], (whole[_EVENTS] - whole[0]) - (bare[_EVENTS] - bare[0])
    sys.stdout.write(f"a request with one picture{request * 1e3:>10.0f} µs\n")
    sys.stdout.write(f"an event of its stream    {all_events / _EVENTS * 1e3:>10.1f} µs\n")


if __name__ == "__main__":
    main()
