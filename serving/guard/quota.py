"""Each key's quotas: what is over them is 429 with the time of the reset; what is within carries `x-ratelimit-*`.

Tokens are counted when the answer has been given, by vLLM's own count; of one that was broken off, by what had come of it.
"""

import asyncio
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.guard.engine import used_tokens
from serving.guard.facts import facts
from serving.guard.keys import KeyRing
from serving.guard.respond import refuse
from serving.guard.routes import ANSWERS
from serving.guard.usage import Standing, Usage

_SAVE_EVERY_S = 5.0


class Quota:
    """Saves the usage every few seconds while the application lives, and at its end."""

    def __init__(self, app: ASGIApp, ring: KeyRing, usage: Usage) -> None:
        self.app = app
        self._ring = ring
        self._usage = usage
        self._saving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._usage.load()
            self._saving = asyncio.create_task(self._save())
            try:
                await self.app(scope, receive, send)
            finally:
                self._saving.cancel()
                self._usage.save()
            return
        key = facts(scope).key
        if not key or scope["type"] != "http" or scope["path"] not in ANSWERS:
            await self.app(scope, receive, send)
            return
        now = time.time()
        standings = self._usage.standings(key, self._ring.quotas(key), now)
        spent = [each for each in standings if each.left == 0]
        if spent:
            wait = max(each.resets_s for each in spent)
            message = f"The key {key!r} has used up {', '.join(f'{each.limit} {each.quota}' for each in spent)}."
            headers = {"Retry-After": str(wait)} | _headers(standings)
            await refuse(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=headers)(
                scope, receive, send
            )
            return
        self._usage.add(key, now, requests=1)
        await self._metered(key, scope, receive, send)

    async def _metered(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        status, events = 0, 0

        async def answering(message: Message) -> None:
            nonlocal status, events
            if message["type"] == "http.response.start":
                status = message["status"]
                standings = self._usage.standings(key, self._ring.quotas(key), time.time())
                MutableHeaders(scope=message).update(_headers(standings))
            else:
                events += message.get("body", b"").count(b"data: ")
            await send(message)

        try:
            await self.app(scope, receive, answering)
        finally:
            if facts(scope).given_away:  # it is counted where it is answered
                self._usage.add(key, time.time(), requests=-1)
            if 200 <= status < 300:
                self._usage.add(key, time.time(), tokens=_tokens(scope, events))

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            self._usage.save()


def _tokens(scope: Scope, events: int) -> int:
    """vLLM's count; for a stream that was broken off, the estimate of the prompt and an event a token."""
    used, cost = used_tokens(scope), facts(scope).cost
    return events + (cost.prompt_tokens if cost else 0) if used is None else sum(used)


def _headers(standings: list[Standing]) -> dict[str, str]:
    """As OpenAI names them; where a key has a quota by the minute and one by the day, the one with less left is told."""
    headers: dict[str, str] = {}
    for what in ("requests", "tokens"):
        of_kind = [each for each in standings if each.quota.startswith(what)]
        if of_kind:
            tightest = min(of_kind, key=lambda each: each.left)
            headers[f"x-ratelimit-limit-{what}"] = str(tightest.limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(tightest.left)
            headers[f"x-ratelimit-reset-{what}"] = f"{tightest.resets_s}s"
    return headers
