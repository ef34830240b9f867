"""Requests for `fleet_check`: streamed answers of a fixed length about pictures that are all different, and when each began
and ended. With several servers each request goes to the less loaded of two drawn at random, as in the simulation."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.workload import QUESTIONS, Workload


@dataclass(frozen=True)
class Timed:
    """Seconds since the run began."""

    at: float
    first: float
    end: float


class FailedError(RuntimeError):
    """A server refused a request that it should have answered."""


class Generator:
    """One process that asks; `numbers` never gives the same picture twice."""

    def __init__(self, urls: Sequence[str], model: str, picture: tuple[int, int]) -> None:
        self._urls = urls
        self._model = model
        self._workload = Workload("", width=picture[0], height=picture[1])
        self._numbers = itertools.count()
        self._running = [0] * len(urls)
        self._rng = random.Random(0)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(timeout=600, trust_env=False, limits=limits)

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

    async def closed(self, clients: int, each: int, tokens: int, answers: int = 1) -> list[Timed]:
        """So many clients, each of which asks again when it has been answered."""
        bodies = list(self.bodies(clients * each, tokens, answers))
        began = time.perf_counter()

        async def client(number: int) -> list[Timed]:
            return [await self._ask(body, began) for body in bodies[number::clients]]

        return [one for some in await asyncio.gather(*map(client, range(clients))) for one in some]

    async def open(self, arrivals: Sequence[float], tokens: int) -> list[Timed]:
        """A request at each of those seconds, whether others have been answered or not."""
        bodies = list(self.bodies(len(arrivals), tokens))
        began = time.perf_counter()

        async def later(at: float, body: dict[str, Any]) -> Timed:
            await asyncio.sleep(max(0.0, at - (time.perf_counter() - began)))
            return await self._ask(body, began)

        return list(await asyncio.gather(*map(later, arrivals, bodies)))

    async def _ask(self, body: dict[str, Any], began: float) -> Timed:
        few = self._rng.sample(range(len(self._urls)), min(2, len(self._urls)))
        server = min(few, key=lambda each: self._running[each])
        self._running[server] += 1
        clock: Callable[[], float] = time.perf_counter
        at, first = clock(), 0.0
        try:
            async with self._client.stream("POST", f"{self._urls[server]}/v1/chat/completions", json=body) as reply:
                if reply.status_code != 200:
                    raise FailedError(f"{reply.status_code}: {(await reply.aread()).decode()[:300]}")
                async for _ in reply.aiter_raw():
                    first = first or clock()
        finally:
            self._running[server] -= 1
        return Timed(at - began, first - began, clock() - began)
