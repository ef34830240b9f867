"""The line from the server process to the supervisor: one JSON object a line through an inherited pipe.

The other way there are signals, SIGUSR1 (take no new requests) and SIGTERM (end); and what concerns connections, which
goes with them (handover.py).
"""

import contextlib
import json
import os
from typing import Any

ENVIRONMENT_KEY = "ONECARD_CONTROL_FD"


def tell(**event: Any) -> None:
    """Tells the supervisor, if this process has one. A line is far below PIPE_BUF, so that writes never mix; one that
    a supervisor does not come to read is lost rather than waited for."""
    if descriptor := os.environ.get(ENVIRONMENT_KEY):
        os.set_blocking(int(descriptor), False)
        with contextlib.suppress(BlockingIOError):
            os.write(int(descriptor), (json.dumps(event) + "\n").encode())
