"""Events from the server process to the supervisor: one JSON object a line, through an inherited pipe.

In the other direction there are signals, SIGUSR1 (take no new requests) and SIGTERM (stop), and the orders that travel with
connections (handover.py).
"""

import contextlib
import json
import os
from typing import Any

ENVIRONMENT_KEY = "ONECARD_CONTROL_FD"


def tell(**event: Any) -> None:
    """Tells the supervisor, if this process has one. A line is far below PIPE_BUF, so writes never mix. If the supervisor does
    not read and the pipe is full, the line is dropped: nothing waits."""
    if descriptor := os.environ.get(ENVIRONMENT_KEY):
        os.set_blocking(int(descriptor), False)
        with contextlib.suppress(BlockingIOError):
            os.write(int(descriptor), (json.dumps(event) + "\n").encode())
