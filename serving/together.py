"""`/metrics` of the servers of several cards as one: each is asked over a connection of its own, and its samples get the
card's number as the label `card`, so that counters stay each process's own and sums are Prometheus' to make.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.handover import Channel

_PATIENCE_S = 5.0
_HANDED_ON = frozenset({b"host", b"authorization"})
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Together:
    """An ASGI application. `ways` gives the cards that serve with the ways to them; where none does, `alone` answers."""

    def __init__(self, alone: ASGIApp, ways: Callable[[], dict[int, Channel]]) -> None:
        self._alone = alone
        self._ways = ways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ways = self._ways()
        texts = await asyncio.gather(*(_ask(channel, scope) for channel in ways.values()))
        told = {card: text for card, text in zip(ways, texts, strict=True) if text}
        if told:
            body = await asyncio.to_thread(merged, told)
            await Response(body, media_type=_CONTENT_TYPE)(scope, receive, send)
        else:
            await self._alone(scope, receive, send)


def merged(texts: dict[int, str]) -> bytes:
    """The expositions by card as one."""
    families: dict[str, Metric] = {}
    for card, text in texts.items():
        for family in text_string_to_metric_families(text):
            of_all = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                of_all.samples.append(sample._replace(labels={**sample.labels, "card": str(card)}))
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _ask(channel: Channel, scope: Scope) -> str | None:
    """A server's own metrics; None where it does not answer. HTTP/1.0, so that the answer ends with the connection."""
    here, there = socket.socketpair()
    headers = b"".join(b"%s: %s\r\n" % pair for pair in scope["headers"] if pair[0] in _HANDED_ON)
    if not channel.give(there, b"GET /metrics HTTP/1.0\r\n" + headers + b"\r\n"):
        there.close()
        here.close()
        return None
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(sock=here)
            with contextlib.closing(writer):
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " in head.partition(b"\r\n")[0]:
                    return (await reader.read()).decode()
    return None
