"""The first decision about a request for an answer, made before its body is read, by its length and the state of the queue."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.admission import Admission, Cost
from serving.guard.body import HeldBodies
from serving.guard.facts import facts
from serving.guard.respond import refuse
from serving.guard.routes import ANSWERS


class Gate:
    """Refuses requests when the queue is full or too many bodies are held; a body is held until its answer is complete.
    `elsewhere` says whether another card has room when this one has none."""

    def __init__(
        self, app: ASGIApp, admission: Admission, max_body_bytes: int, elsewhere: Callable[[], bool] = lambda: False
    ) -> None:
        self.app = app
        self._admission = admission
        self._elsewhere = elsewhere
        self._bodies = HeldBodies(max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ANSWERS:
            await self.app(scope, receive, send)
            return
        size = self._bodies.size(scope)
        if not self._bodies.fits(size) or (self._admission.full(facts(scope).key) and not self._elsewhere()):
            await overloaded(self._admission.retry_after(Cost(0)))(scope, receive, send)
            return
        with self._bodies.hold(size):
            await self.app(scope, receive, send)


def overloaded(retry_after_s: int, code: str = "overloaded") -> ASGIApp:
    """429: engine and queue are full. `code` tells a request that was refused at once from one that waited in vain."""
    return refuse(
        429,
        f"The server has as much to do as it can: ask again in {retry_after_s} s.",
        "rate_limit_error",
        code=code,
        headers={"Retry-After": str(retry_after_s)},
    )
