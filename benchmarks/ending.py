"""What a benchmark or a test has started ends with it, whatever ends that: a server that is left behind holds the GPU's memory
while the next one is measured, and cores and a port while the next one is tested.
"""

import contextlib
import os
import signal
import subprocess
from typing import NoReturn

# Put before a command: the kernel sends it SIGTERM when the thread that started it has ended, by SIGKILL too (prctl(2)). The
# servers of vLLM and onecard then end their own processes.
TIED = ("setpriv", "--pdeathsig", "TERM")
_GRACE_S = 20.0


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to its process group, then SIGKILL. One that has ended already may have left an engine there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def in_order_by_sigterm() -> None:
    """SIGTERM, by which `timeout` ends a run, then closes what is open here, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
