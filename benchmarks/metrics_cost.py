"""`python -m benchmarks.metrics_cost [URL …]`: what measuring a request costs, in µs of one core.

Three figures: recording alone (a request with one picture, everything that is recorded of it), the layer that measures
from outside (a streamed answer of 64 tokens, less the same without it), and the text of everything that is recorded.
With the URLs of running servers' `/metrics`, also how long their scrapes take.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.measure import Measure
from serving.metrics.recorder import Recorder

_ROUNDS = 5
_REQUESTS = 2_000
_TOKENS = 64
_SCRAPES = 200
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
)
_USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":800,"total_tokens":%d,"completion_tokens":%d}}\n\n'


def recording() -> Callable[[], None]:
    """One request with one picture, as guard, media connector and the measuring layer record it."""
    record = Recorder(CollectorRegistry())

    def once() -> None:
        record.record_in_flight(1)
        record.record_queue_time(0.0)
        record.record_image(received_bytes=200_000, received_pixels=786_432, fitted_pixels=786_432, tokens=768)
        record.record_image_step("fetch", 0.001)
        record.record_image_step("decode", 0.004)
        record.record_image_step("process", 0.002)
        record.record_first_token("/v1/chat/completions", 0.05)
        record.record_finish("stop")
        record.record_tokens("alice", 800, _TOKENS, 0.3)
        record.record_request("/v1/chat/completions", "alice", "answered", "none", 0.4)
        record.record_in_flight(-1)

    return once


def vllm(tokens: int) -> ASGIApp:
    """In its place: reads the body, streams an answer of so many tokens, each an event, and notes what it took."""
    usage = (_USAGE % (800 + tokens, tokens)).encode()
    noted = SimpleNamespace(final_usage_info=SimpleNamespace(prompt_tokens=800, completion_tokens=tokens))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()
        request.state.request_metadata = noted
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for _ in range(tokens):
            await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
        await send({"type": "http.response.body", "body": usage, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return answer


def streaming(layer: Callable[[ASGIApp], ASGIApp]) -> Callable[[], None]:
    """A streamed answer of 64 tokens through the layer."""

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_message: Message) -> None: ...

    app = layer(vllm(_TOKENS))
    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [(b"host", b"x")]}
    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(app(scope, receive, send))


def scraping() -> Callable[[], None]:
    """The text of everything that is recorded, after one request."""
    registry = CollectorRegistry()
    Recorder(registry).record_request("/v1/chat/completions", "none", "answered", "none", 0.4)
    return lambda: (generate_latest(registry), None)[1]


def microseconds(once: Callable[[], None]) -> float:
    """CPU time, the best of several rounds: what the code takes, and not what else the machine does."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(_REQUESTS):
            once()
        best = min(best, time.process_time() - began)
    return best / _REQUESTS * 1e6


def scrapes(url: str, count: int = _SCRAPES) -> dict[str, float]:
    """Median, 99% and longest in ms of the scrapes of a running server, as Prometheus makes them (compressed, one
    connection), and the length of the text in KB."""
    milliseconds, length = [], 0
    with httpx.Client(trust_env=False, headers={"Accept-Encoding": "gzip"}) as client:
        for _ in range(count):
            began = time.perf_counter()
            reply = client.get(url).raise_for_status()
            milliseconds.append((time.perf_counter() - began) * 1e3)
            length = len(reply.content)
            time.sleep(0.05)
    *_, worst = ordered = sorted(milliseconds)
    found = {"median_ms": ordered[count // 2], "99%_ms": ordered[count * 99 // 100], "longest_ms": worst}
    return {name: round(value, 1) for name, value in (found | {"kb": length / 1000}).items()}


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics_cost", description="What measuring costs.")
    parser.add_argument("urls", nargs="*", help="as http://127.0.0.1:8000/metrics; put the server under load meanwhile")
    urls = parser.parse_args().urls
    logging.getLogger("onecard.requests").addHandler(logging.NullHandler())
    bare, measured = microseconds(streaming(lambda app: app)), microseconds(streaming(Measure))
    rows = {
        "recording one request with a picture": microseconds(recording()),
        f"measuring a streamed answer of {_TOKENS} tokens": measured - bare,
        "the text of everything recorded": microseconds(scraping()),
    }
    for name, value in rows.items():
        sys.stdout.write(f"{name:<48}{value:>10.1f} µs\n")
    for url in urls:
        said = ", ".join(f"{name} {value}" for name, value in scrapes(url).items())
        sys.stdout.write(f"{url:<48}{said}\n")


if __name__ == "__main__":
    main()
