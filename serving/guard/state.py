"""What the server process knows of itself: how far it is, what it measured, and who is being served."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from serving.guard.admission import Admission, Capacity
from serving.guard.presence import Presence
from serving.guard.respond import not_ready
from serving.ipc.board import Board
from serving.ipc.handover import Channel
from serving.ipc.launch import Launch
from serving.ipc.status import status_body
from serving.machine.progress import TITLES
from serving.planning.plan import Plan

_DOING = {
    "warming": TITLES["warmup"],
    "draining": "answers that are under way are finished, and no new ones begun",
    "restarting": "the engine is started again",
}
# A server that drains is followed by another, or by none; this is when it is worth looking.
_LOOK_AGAIN_S = 10.0
# What one key may have in flight while others are about. A GPU makes twelve tokens at once nearly as fast as one; a CPU
# takes as long as they are many, and would keep the others waiting for each.
_SHARE_OF_A_GPU = 0.75
_SHARE_OF_A_CPU = 0.25
# A photo of about a megapixel, as most are that people send: 3 KiB of pixels a token.
_TOKENS_OF_A_PICTURE = 1024
# A restart of which nothing is known yet.
_RESTART_S = 20.0
# Another card's server that is not back after so many times what a start takes may never be.
_OVERDUE = 2


class ServerState:
    """`state` is warming → ready ⇄ stalled → draining, or → restarting; the supervisor is told of it (ipc/control.py).

    A stalled server still takes requests, as it may only be slow; `/ready` says no, so that others are asked first.
    A server that is `leaving` drains, and gives what comes back to the supervisor through `channel`.
    """

    def __init__(self, launch: Launch, channel: Channel | None = None, board: Board | None = None) -> None:
        self.launch = launch
        self.state = "warming"
        self.measured: dict[str, Any] = {}
        self.admission = Admission(capacity_of(launch.plan))
        self.presence = Presence(self._came_or_went)
        # The watchdog's look at whether the engine lives.
        self.look: Callable[[], None] = lambda: None
        self.channel = channel
        self.board = board
        if channel:
            channel.counted = self._post
        self.leaving = False
        self._began = time.monotonic()
        self._warm = asyncio.Event()
        self._held = 0

    @property
    def takes_requests(self) -> bool:
        return self.state in ("ready", "stalled")

    def _came_or_went(self) -> None:
        """A dead engine's requests end at once. Its server must not look idle for that, and be given those of other cards."""
        self.look()
        self._post()

    def _post(self) -> None:
        if self.board and self.channel:
            arrived, given = self.channel.received, self.channel.sent
            self.board.post(self.launch.card, self.presence.here, self.presence.since, arrived=arrived, given=given)

    @property
    def _others(self) -> list[int]:
        """The other cards whose servers take requests, the one with the fewest first."""
        return [card for card in self.board.open_cards() if card != self.launch.card] if self.board else []

    @property
    def others_serve(self) -> bool:
        return bool(self._others)

    @property
    def others_have_less(self) -> bool:
        """Whether a request that is here is better given to another card: a connection stays where it was accepted, however
        busy that server is."""
        others = self._others
        if not (self.board and others):
            return False
        soon = self.board.load(others[0]) + math.ceil(self.board.undecided / len(others))
        return not self.takes_requests or soon < self.presence.here - 1

    def spared_s(self, crash_age_s: float) -> float | None:
        """Seconds after which a request may be asked again that was in another card's engine at its death so long ago; None
        where it may run here: another server is left if this one dies of it, there never was one, or it is overdue."""
        restart_s = self.restart_s()
        if self.board is None or self.others_serve or crash_age_s > _OVERDUE * restart_s:
            return None
        return max(0.0, restart_s - crash_age_s)

    def idle_s(self) -> float:
        """Seconds since the end of the last request to any card; 0 while there is one."""
        if self.board is None:
            return self.presence.idle_s()
        since = self.board.idle_since()
        return 0.0 if since is None else time.monotonic() - since

    def refusal(self) -> Response | None:
        """Why no requests are taken, and when they will be; None while they are."""
        if self.takes_requests:
            return None
        # The connection is closed: the next one may be another process's.
        doing, close = _DOING.get(self.state, ""), self.state != "warming"
        return not_ready(self.state, doing, self.seconds_left(), close=close)

    def holds(self, *, again: bool) -> bool:
        """Whether a request waits for the end of the warm-up: where one has woken this server, or it asks `again`, and there
        is room."""
        waits = self.state == "warming" and (again or self.launch.woken_at is not None)
        return waits and self._held < self.admission.capacity.queue

    async def warmed(self) -> bool:
        """Waits for the end of the warm-up; whether it came within what a request is held for."""
        self._held += 1
        try:
            async with asyncio.timeout(self.launch.guard.wake_deadline_s):
                await self._warm.wait()
        except TimeoutError:
            return False
        finally:
            self._held -= 1
        return True

    def ready(self) -> None:
        """The warm-up is done; a server that has been told to end meanwhile goes on ending."""
        if self.state == "warming":
            self.state = "ready"
        self.presence.begin()
        self._warm.set()
        if self.launch.woken_at is not None:
            self.launch = self.launch.model_copy(update={"wake_s": round(time.monotonic() - self.launch.woken_at, 1)})

    def leave(self) -> None:
        """The supervisor's order, or idle time: the memory is given back once what runs is done."""
        if self.state != "restarting":
            self.state = "draining"
            self.leaving = True

    def drain(self) -> None:
        """SIGUSR1 from the supervisor: no new requests; the running ones go on."""
        if self.state != "restarting":
            self.state = "draining"

    def seconds_left(self) -> float | None:
        """Until requests are taken again, as far as it is known: by what the last start took."""
        match self.state:
            case "warming":
                typical = self.launch.typical_s.get("warmup")
                return None if typical is None else abs(typical - (time.monotonic() - self._began))
            case "draining":
                return _LOOK_AGAIN_S
            case "restarting":
                return self.restart_s()
        return None

    def restart_s(self) -> float:
        """What another start will take, as the last one did."""
        return sum(self.launch.typical_s.values()) or _RESTART_S

    def status(self) -> dict[str, Any]:
        """The JSON of `/onecard/status`."""
        return status_body(
            self.launch,
            state=self.state,
            step="warmup" if self.state == "warming" else None,
            seconds_left=self.seconds_left(),
            measured=self.measured,
            queue={"running": self.admission.running, "waiting": self.admission.waiting},
        )


def capacity_of(plan: Plan) -> Capacity:
    """As much in flight as the plan can serve; behind it a queue of twice as many requests.

    Pictures in flight are bounded by the host's memory, in which their pixels wait for the encoder: an ordinary one for each
    that runs, and always those that one request may have. (What bounds the GPU's share of them is the KV cache.)
    """
    most = plan.capacity
    one_request = most.image_tokens * max(1, plan.limits.max_images_per_request)
    return Capacity(
        kv_tokens=most.kv_tokens,
        encoder_tokens=max(one_request, _TOKENS_OF_A_PICTURE * most.max_num_seqs),
        sequences=most.max_num_seqs,
        queue=max(16, 2 * most.max_num_seqs),
        share=_SHARE_OF_A_CPU if plan.gpu.name == "CPU" else _SHARE_OF_A_GPU,
    )
