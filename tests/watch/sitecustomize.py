"""Python runs this at the start of every process of the test's server: it notes each address that is connected to or
looked up, for the test that a serving process opens no connection outward."""

import os
import sys


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("watching", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[-1]
        with open(os.environ["ONECARD_TEST_CONNECTIONS"], "a") as file:
            file.write(f"{event}\t{address}\n")


if "ONECARD_TEST_CONNECTIONS" in os.environ:
    _note("watching", (os.getpid(),))
    sys.addaudithook(_note)
