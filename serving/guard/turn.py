"""Where a request waits for its turn: admission.py has the policy, this layer the waiting and the clock."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serving import metrics
from serving.guard.admission import Admission, Ticket
from serving.guard.body import replay, whole_body
from serving.guard.facts import facts
from serving.guard.gate import overloaded


class Turn:
    """Requests without a cost pass. A client that leaves gives its place back, in the queue too. `closed` makes the answer for
    those who waited in vain because the server has stopped taking requests."""

    def __init__(
        self, app: ASGIApp, admission: Admission, timeout_s: float, closed: Callable[[], ASGIApp | None] = lambda: None
    ) -> None:
        self.app = app
        self._admission = admission
        self._timeout_s = timeout_s
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fact = facts(scope)
        if scope["type"] != "http" or fact.cost is None:
            await self.app(scope, receive, send)
            return
        body = await whole_body(receive)
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()
        cost = replace(fact.cost, sequences=sys.maxsize) if fact.alone else fact.cost
        ticket = self._admission.enter(fact.key, cost, told.set_result, loop.time())
        if not isinstance(ticket, Ticket):
            await overloaded(ticket)(scope, receive, send)
            return
        came = loop.time()
        try:
            admitted = told.result() if told.done() else await self._wait(told, receive)
            metrics.record_queue_time(loop.time() - came)
            if admitted:
                await self.app(scope, replay(body, receive), send)
            elif admitted is False:
                seconds = self._admission.retry_after(fact.cost)
                await (self._closed() or overloaded(seconds, "queue_timeout"))(scope, receive, send)
        finally:
            self._admission.leave(ticket, loop.time())

    async def _wait(self, told: "asyncio.Future[bool]", receive: Receive) -> bool | None:
        """True once it is admitted, False where it was pushed out or waited too long, None where the client left."""
        # The body has been read: all that can still come is that the client has left.
        left: asyncio.Future[Any] = asyncio.ensure_future(receive())
        waiting: set[asyncio.Future[Any]] = {told, left}
        metrics.record_queued(1)
        try:
            await asyncio.wait(waiting, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            metrics.record_queued(-1)
            gone = left.done()
            left.cancel()
        return None if gone else told.done() and told.result()
