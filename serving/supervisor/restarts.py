"""After a crash: how long to pause, what to wait for, and when to give up. Pure, except for `slept_s`; times are in seconds of
the monotonic clock."""

import time
from collections import deque

from serving.machine.hardware import Hardware
from serving.machine.onecards import among
from serving.planning.plan import Plan

# Indexed by the crashes that are remembered; the last for any more.
PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0)
# A server that died this often in a row without becoming ready will not become ready the next time.
MOST_UNREADY = 5
# More crashes than this within WINDOW_S of service, about one in 24 s, and the server is of no use to anybody.
MOST_CRASHES = 25
WINDOW_S = 600.0


class Restarts:
    """The budget of crashes, over a sliding window in seconds of service rather than of the clock: slow starts must not make a
    server that dies at every fifth request look like one that seldom dies."""

    def __init__(self) -> None:
        self._served_s = 0.0
        self._crashes: deque[float] = deque()
        self._unready = 0

    def crashed(self, ready_for_s: float | None) -> float | None:
        """Counts a crash. Returns the pause before the next start, None if there have been too many. `ready_for_s` is how long
        the server had been ready, None if it never was."""
        self._unready = self._unready + 1 if ready_for_s is None else 0
        self._served_s += ready_for_s or 0.0
        self._crashes.append(self._served_s)
        while self._crashes[0] <= self._served_s - WINDOW_S:
            self._crashes.popleft()
        if self._unready > MOST_UNREADY or len(self._crashes) > MOST_CRASHES:
            return None
        return PAUSES_S[min(len(self._crashes), len(PAUSES_S)) - 1]

    @property
    def too_many(self) -> str:
        """Why there is no next start, in words."""
        if self._unready > MOST_UNREADY:
            return f"crashed {self._unready} times in a row before it was ready"
        return f"crashed {len(self._crashes)} times within {WINDOW_S / 60:.0f} minutes of service"


def slept_s() -> float:
    """Seconds that this machine has been suspended since boot: only one of the two clocks counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def taken_by_others(plan: Plan, found: Hardware) -> str | None:
    """In words, why the plan's memory is not free on the first GPU now; None where it is, or where there is no GPU."""
    if plan.gpu.name == "CPU" or not found.gpus:
        return None
    card = found.gpus[0]
    # The headroom is meant for what other programs take.
    needed = plan.memory_mib.total - plan.memory_mib.headroom
    if card.free_mib >= needed:
        return None
    return (
        f"other programs hold the GPU's memory{among(card.onecards)}: {card.free_mib:,} of {card.total_mib:,} MiB are free, "
        f"and the plan takes {needed:,}"
    )
