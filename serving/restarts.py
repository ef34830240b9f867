"""After a crash: how long to pause, what to wait for, and when to give up. Pure but for `slept_s`; times are seconds of
the monotonic clock."""

import time

from serving.hardware import Hardware
from serving.plan import Plan

PAUSES_S = (0.0, 1.0, 2.0, 5.0, 10.0)
# A server that was ready for this long has not crashed at once: the pauses begin anew.
STABLE_S = 10.0


class Restarts:
    """Counts the crashes in a row."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def crashed(self, ready_for_s: float | None) -> float | None:
        """The pause before the next start; None when there have been too many. `ready_for_s` is how long the server
        had been ready, None when it never was."""
        stable = ready_for_s is not None and ready_for_s > STABLE_S
        self.in_a_row = 1 if stable else self.in_a_row + 1
        return PAUSES_S[self.in_a_row - 1] if self.in_a_row <= len(PAUSES_S) else None


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
        f"other programs hold the GPU's memory: {card.free_mib:,} of {card.total_mib:,} MiB are free, and the plan takes "
        f"{needed:,}"
    )
