"""Requests for `fleet_check` and `cards`: streamed answers of a fixed length about pictures that are all different, when each
began and ended, and what became of it. With several servers each request goes to the less loaded of two drawn at random, as in
the simulation."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.served import key_header
from benchmarks.workload import QUESTIONS, Workload

_PICTURES_EACH = 1_000_000
# Of the end of a stream, where an error would stand.
_TAIL_BYTES = 4096
_REFUSED_PAUSE_S = 0.2
# A stream that says nothing for so long has been forgotten.
_SILENCE_S = 120.0
# A picture is drawn so long before it is sent: it takes 10 ms of a core.
_DRAWN_BEFORE_S = 0.5


@dataclass(frozen=True)
class Timed:
    """Seconds since the run began; `gaps` are those between the answer's pieces. `failed` says what came in the place of an
    answer: another status than 200, what broke the connection, or how the stream ended."""

    at: float
    first: float
    end: float
    gaps: tuple[float, ...] = ()
    failed: str = ""


class FailedError(RuntimeError):
    """A server refused a request that it should have answered."""


class Generator:
    """One process that asks, and never about the same picture twice. Each `first` has pictures of its own."""

    def __init__(self, urls: Sequence[str], model: str, picture: tuple[int, int], first: int = 0) -> None:
        self._urls = urls
        self._model = model
        self._workload = Workload("", width=picture[0], height=picture[1])
        self._numbers = itertools.count(first * _PICTURES_EACH)
        self._running = [0] * len(urls)
        self._rng = random.Random(0)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=_SILENCE_S, trust_env=False, limits=limits, headers=key_header())

    def bodies(self, count: int, tokens: int, answers: int = 1) -> Iterator[dict[str, Any]]:
        """Requests for answers of exactly so many tokens."""
        first = next(self._numbers) * 10_000
        for number, content in enumerate(self._workload.requests(first, count)):
            content[-1]["text"] = QUESTIONS[number % len(QUESTIONS)]
            yield {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                "stream": True,
                "n": answers,
                "temperature": 1.0 if answers > 1 else 0.0,
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
            }

    async def prompt_tokens(self) -> int:
        """Of a picture with its question, as the first server counts them."""
        body = next(self.bodies(1, 1)) | {"stream": False}
        reply = await self._client.post(f"{self._urls[0]}/v1/chat/completions", json=body)
        if reply.status_code != 200:
            raise FailedError(f"{reply.status_code}: {reply.text[:300]}")
        return int(reply.json()["usage"]["prompt_tokens"])

    async def close(self) -> None:
        await self._client.aclose()

    async def closed(self, clients: int, each: int, tokens: int, answers: int = 1) -> list[Timed]:
        """So many clients, each of which asks again when it has been answered."""
        bodies = list(self.bodies(clients * each, tokens, answers))
        began = time.perf_counter()

        async def client(number: int) -> list[Timed]:
            return [_answered(await self._ask(body, began)) for body in bodies[number::clients]]

        return [one for some in await asyncio.gather(*map(client, range(clients))) for one in some]

    async def open(self, arrivals: Sequence[float], tokens: int) -> list[Timed]:
        """A request at each of those seconds, whether others have been answered or not."""
        bodies = list(self.bodies(len(arrivals), tokens))
        began = time.perf_counter()

        async def later(at: float, body: dict[str, Any]) -> Timed:
            await asyncio.sleep(max(0.0, at - (time.perf_counter() - began)))
            return _answered(await self._ask(body, began))

        return list(await asyncio.gather(*map(later, arrivals, bodies)))

    async def until(self, over: Callable[[], bool], clients: int, tokens: int) -> list[Timed]:
        """So many clients, each of which asks again until it is over, whether it was answered or not. Nothing is tried twice.
        Seconds of `time.perf_counter`, which all processes of a machine share."""

        async def client() -> list[Timed]:
            asked = []
            body = await asyncio.to_thread(self._another, tokens)
            while not over():
                # Drawn while the answer is waited for.
                following = asyncio.create_task(asyncio.to_thread(self._another, tokens))
                asked.append(await self._ask(body, 0.0))
                body = await following
                if asked[-1].failed:
                    await asyncio.sleep(_REFUSED_PAUSE_S)
            return asked

        return [one for some in await asyncio.gather(*(client() for _ in range(clients))) for one in some]

    async def at(self, moments: Sequence[float], tokens: int) -> list[Timed]:
        """A request at each of those seconds of `time.perf_counter`, whether others have been answered or not."""

        async def later(moment: float) -> Timed:
            await asyncio.sleep(moment - _DRAWN_BEFORE_S - time.perf_counter())
            body = await asyncio.to_thread(self._another, tokens)
            await asyncio.sleep(moment - time.perf_counter())
            return await self._ask(body, 0.0)

        return list(await asyncio.gather(*map(later, moments)))

    def _another(self, tokens: int) -> dict[str, Any]:
        return next(self.bodies(1, tokens))

    async def _ask(self, body: dict[str, Any], began: float) -> Timed:
        few = self._rng.sample(range(len(self._urls)), min(2, len(self._urls)))
        server = min(few, key=lambda each: self._running[each])
        self._running[server] += 1
        at, pieces, failed = time.perf_counter(), [], ""
        tail = b""
        try:
            async with self._client.stream("POST", f"{self._urls[server]}/v1/chat/completions", json=body) as reply:
                if reply.status_code != 200:
                    failed = f"{reply.status_code}: {(await reply.aread()).decode(errors='replace')[:300]}"
                else:
                    async for piece in reply.aiter_raw():
                        pieces.append(time.perf_counter())
                        tail = (tail + piece)[-_TAIL_BYTES:]
                    failed = fault_of(tail)
        except httpx.HTTPError as error:
            failed = type(error).__name__
        finally:
            self._running[server] -= 1
        gaps = tuple(round(later - sooner, 5) for sooner, later in itertools.pairwise(pieces))
        end = time.perf_counter()
        return Timed(at - began, (pieces[0] if pieces else end) - began, end - began, gaps, failed)


def fault_of(tail: bytes) -> str:
    """What is wrong with a stream that ended so; nothing where it is whole. An error that comes after the status was sent
    is an event of its own, the last or the last but one."""
    for event in tail.split(b"\n\n"):
        if event.startswith(b'data: {"error"'):
            try:
                return f"error event: {json.loads(event.removeprefix(b'data: '))['error']['message']}"[:300]
            except (ValueError, LookupError, TypeError):
                return "error event"
    return "" if tail.rstrip().endswith(b"data: [DONE]") else "the stream ended early"


def _answered(timed: Timed) -> Timed:
    if timed.failed:
        raise FailedError(timed.failed)
    return timed
