"""What the server process knows of itself: how far it is, what it measured, and who is being served."""

import time
from typing import Any

from starlette.responses import Response

from serving.guard.admission import Admission, Capacity
from serving.guard.respond import not_ready
from serving.launch import Launch
from serving.plan import Plan
from serving.progress import TITLES
from serving.status import status_body

_DOING = {
    "warming": TITLES["warmup"],
    "draining": "answers that are under way are finished, and no new ones begun",
    "restarting": "the engine is started again",
}
# A server that drains is followed by another, or by none; this is when it is worth looking.
_LOOK_AGAIN_S = 10.0
# A restart of which nothing is known yet.
_RESTART_S = 20.0


class ServerState:
    """`state` is warming → ready ⇄ stalled → draining, or → restarting; the supervisor is told of it (control.py).

    A stalled server still takes requests, as it may only be slow; `/ready` says no, so that others are asked first.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.state = "warming"
        self.measured: dict[str, Any] = {}
        self.admission = Admission(capacity_of(launch.plan))
        self._began = time.monotonic()

    @property
    def takes_requests(self) -> bool:
        return self.state in ("ready", "stalled")

    def refusal(self) -> Response | None:
        """Why no requests are taken, and when they will be; None while they are."""
        if self.takes_requests:
            return None
        # The connection is closed: the next one may be another process's.
        doing, close = _DOING.get(self.state, ""), self.state != "warming"
        return not_ready(self.state, doing, self.seconds_left(), close=close)

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

    Pictures in flight may together be four batches for the encoder, and always those that one request may have.
    """
    most = plan.capacity
    one_request = most.image_tokens * max(1, plan.limits.max_images_per_request)
    batches = 4 * int(plan.engine_args.get("max_num_batched_tokens", 0))
    return Capacity(
        kv_tokens=most.kv_tokens,
        encoder_tokens=max(one_request, batches),
        sequences=most.max_num_seqs,
        queue=max(16, 2 * most.max_num_seqs),
    )
