"""The first decision about a request for an answer, before its body is read: by its length and the state of the queue."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard.admission import Admission, Cost
from serving.guard.body import held_bytes
from serving.guard.facts import facts
from serving.guard.respond import refuse
from serving.guard.routes import ANSWERS

# Bodies that are held at the same time, in the largest that one may be.
_HELD_BODIES = 8


class Gate:
    """Bounds the memory of bodies: each is charged with what it declares, or with the most it may be, until its answer
    has been given. `elsewhere` says whether another card has room for a request that this one has none for."""

    def __init__(
        self, app: ASGIApp, admission: Admission, max_body_bytes: int, elsewhere: Callable[[], bool] = lambda: False
    ) -> None:
        self.app = app
        self._admission = admission
        self._elsewhere = elsewhere
        self._max_body_bytes = max_body_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in ANSWERS:
            await self.app(scope, receive, send)
            return
        size = held_bytes(scope, self._max_body_bytes)
        no_room = self._held_bytes and self._held_bytes + size > _HELD_BODIES * self._max_body_bytes
        if no_room or (self._admission.full(facts(scope).key) and not self._elsewhere()):
            await overloaded(self._admission.retry_after(Cost(0)))(scope, receive, send)
            return
        self._held_bytes += size
        try:
            await self.app(scope, receive, send)
        finally:
            self._held_bytes -= size


def overloaded(retry_after_s: int, code: str = "overloaded") -> ASGIApp:
    """429: as much is being served and is waiting as this card can serve. `code` tells who was refused at once from who
    has waited in vain."""
    return refuse(
        429,
        f"The server has as much to do as it can: ask again in {retry_after_s} s.",
        "rate_limit_error",
        code=code,
        headers={"Retry-After": str(retry_after_s)},
    )
