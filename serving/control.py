"""The line from the server process to the supervisor: one JSON object a line through an inherited pipe."""

import json
import os
from typing import Any

ENVIRONMENT_KEY = "ONECARD_CONTROL_FD"


def tell(**event: Any) -> None:
    """Tells the supervisor, if this process has one. A line is far below PIPE_BUF, so that writes never mix."""
    if descriptor := os.environ.get(ENVIRONMENT_KEY):
        os.write(int(descriptor), (json.dumps(event) + "\n").encode())
