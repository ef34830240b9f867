"""`/onecard/status`, and what is answered while there is nothing to serve yet. Supervisor and server share it."""

import json
import math
from typing import Any

from serving.ipc.launch import Launch

# The OpenAI SDK keeps to a Retry-After of up to 60 s (120 s from its version 3 on). Told more, it asks again at once, or
# not at all.
LONGEST_RETRY_S = 60
# It asks three times in all, which with less would be over before a start that takes a little longer.
_SHORTEST_RETRY_S = 5
_UNKNOWN_RETRY_S = 15


def status_body(
    launch: Launch,
    *,
    state: str,
    step: str | None = None,
    seconds_left: float | None = None,
    measured: dict[str, Any] | None = None,
    queue: dict[str, int] | None = None,
    asleep_since: float | None = None,
) -> dict[str, Any]:
    """The JSON of `GET /onecard/status`; `asleep_since` is Unix time, None while it is not asleep. `cards` is filled in where
    there are several, by the supervisor."""
    return {
        "state": state,
        "step": step,
        "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        "restarts": launch.restarts,
        "wakes": launch.wakes,
        "swaps": launch.swaps,
        "wake_s": launch.wake_s,
        "asleep_since": asleep_since,
        "url": launch.url,
        "models": launch.model_names,
        "others": [name for other in launch.others for name in other.names],
        "plan": launch.plan.model_dump(),
        "measured": measured or {},
        "limits": launch.plan.limits.model_dump(),
        "cards": [],
        "queue": queue or {"running": 0, "waiting": 0},
    }


def not_ready_message(state: str, step: str | None, seconds_left: float | None) -> str:
    doing = f"onecard is {state}" + (f": {step}" if step else "")
    return doing + (f", about {seconds_left:.0f} s left." if seconds_left else ".") + " Ask again, or watch /ready."


def retry_after(seconds_left: float | None) -> int:
    """Whole seconds for the Retry-After header: what is left and a quarter more, so that the first of a client's few
    retries finds the server ready."""
    if seconds_left is None:
        return _UNKNOWN_RETRY_S
    return math.ceil(min(LONGEST_RETRY_S, max(_SHORTEST_RETRY_S, 1.25 * seconds_left)))


def error_body(message: str, kind: str, *, param: str | None = None, code: str | int | None = None) -> bytes:
    """OpenAI's error shape."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()
