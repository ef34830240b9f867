"""`onecard sleep` and `onecard wake`: a signal to the supervisor, and its word that it is done (server.json). Neither needs a
key: whoever may signal the process may end it as well."""

import signal
import time

from serving.durations import said
from serving.errors import OnecardError
from serving.machine.processes import STOP_GRACE_S
from serving.machine.running import signal_supervisor, supervisor_facts

_LOOK_EVERY_S = 0.1


def send_to_sleep(port: int) -> str:
    """Has the memory given back, after the answers that are under way; what it came to, in words.

    Raises NotRunningError, or OnecardError when it does not come about.
    """
    facts = supervisor_facts(port)
    if facts.get("state") == "asleep":
        return f"It is asleep, for {said(time.time() - facts['at'])} by now."
    signal_supervisor(port, signal.SIGUSR1)
    began = time.monotonic()
    limit_s = float(facts.get("drain_s", 0)) + 2 * STOP_GRACE_S + 10
    while supervisor_facts(port).get("state") != "asleep":
        if time.monotonic() - began > limit_s:
            raise OnecardError(f"It has not gone to sleep within {limit_s:.0f} s. `onecard status` says what it does.")
        time.sleep(_LOOK_EVERY_S)
    return f"Asleep after {time.monotonic() - began:.1f} s; the memory is given back."


def wake_up(port: int, *, wait: bool = True) -> str:
    """Has the model loaded that was loaded last; what it came to, in words.

    Raises NotRunningError, or OnecardError with the reason when it could not be loaded.
    """
    before = supervisor_facts(port)
    if before.get("state") == "ready":
        return "It is awake."
    signal_supervisor(port, signal.SIGUSR2)
    if not wait:
        return "It wakes up."
    began = time.monotonic()
    limit_s = float(before.get("wake_deadline_s", 0)) + 10
    while (facts := supervisor_facts(port)).get("state") != "ready":
        if facts.get("state") == "asleep" and facts.get("why") and facts["at"] > before["at"]:
            raise OnecardError(f"It could not wake up: {facts['why']}.")
        if time.monotonic() - began > limit_s:
            raise OnecardError(f"It is not awake within {limit_s:.0f} s. `onecard status` says what it does.")
        time.sleep(_LOOK_EVERY_S)
    return f"Awake after {time.monotonic() - began:.1f} s."
