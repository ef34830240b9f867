"""What the server process knows of itself: whether it is warm, what it measured, and vLLM's queue."""

import time
from typing import Any

from prometheus_client import REGISTRY

from serving.launch import Launch
from serving.status import status_body

_QUEUE = {"vllm:num_requests_running": "running", "vllm:num_requests_waiting": "waiting"}


class ServerState:
    """`state` is "warming" until it is "ready"; the supervisor is told of the change (control.py)."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.state = "warming"
        self.measured: dict[str, Any] = {}
        self._began = time.monotonic()

    def seconds_left(self) -> float | None:
        """What is left of the warm-up, by how long it took the last time."""
        typical = self.launch.typical_s.get("warmup")
        if self.state != "warming" or typical is None:
            return None
        return max(0.0, typical - (time.monotonic() - self._began))

    def status(self) -> dict[str, Any]:
        """The JSON of `/onecard/status`."""
        return status_body(
            self.launch,
            state=self.state,
            step="warmup" if self.state == "warming" else None,
            seconds_left=self.seconds_left(),
            measured=self.measured,
            queue=_queue(),
        )


def _queue() -> dict[str, int]:
    """Requests that run and wait, from vLLM's own gauges."""
    lengths = dict.fromkeys(_QUEUE.values(), 0)
    for metric in REGISTRY.collect():
        if name := _QUEUE.get(metric.name):
            lengths[name] = int(sum(sample.value for sample in metric.samples if sample.name == metric.name))
    return lengths
