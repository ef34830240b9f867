"""After a crash: how long to pause, what to wait for, and when to give up. Pure but for `slept_s`; times are seconds of
the monotonic clock."""

import time
from collections import deque

from serving.machine.hardware import Hardware
from serving.machine.onecards import among
from serving.planning.plan import Plan

# By the number of crashes that are remembered; the last one for all beyond.
PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0)
# A server that dies so often before it was ever ready will not be ready the next time either.
MOST_UNREADY = 5
# More within so much service, which is one in less than half a minute, and it is of no use to anybody.
MOST_CRASHES = 25
WINDOW_S = 600.0


class Restarts:
    """The budget of crashes, over a window that slides in seconds of service and not of the clock: a start that takes
    long must not make a server that dies of every fifth request look as one that seldom dies."""

    def __init__(self) -> None:
        self._served_s = 0.0
        self._crashes: deque[float] = deque()
        self._unready = 0

    def crashed(self, ready_for_s: float | None) -> float | None:
        """The pause before the next start; None when there have been too many. `ready_for_s` is how long the server
        had been ready, None when it never was."""
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
    """Seconds that this machine has been suspended since it was booted: the one clock runs on then, the other does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def taken_by_others(plan: Plan, found: Hardware) -> str | None:
    """Why the plan's memory is not to be had on the first GPU now, in words; None where it is, or where no GPU is."""
    if plan.gpu.name == "CPU" or not found.gpus:
        return None
    card = found.gpus[0]
    # The headroom is there for what others take meanwhile.
    needed = plan.memory_mib.total - plan.memory_mib.headroom
    if card.free_mib >= needed:
        return None
    return (
        f"other programs hold the GPU's memory{among(card.onecards)}: {card.free_mib:,} of {card.total_mib:,} MiB are free, "
        f"and the plan takes {needed:,}"
    )
