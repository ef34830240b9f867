"""The service manager's protocol (sd_notify): READY, what is going on, and watchdog pings, to the socket that it names.

Nothing happens where no service manager asked: `NOTIFY_SOCKET` is not set then. The protocol is systemd's sd_notify(3);
others speak it too. When a ping is due and whether it is deserved is the supervisor's to say.

    notifier = Notifier.from_environment()
    notifier.ready("serving onecard-demo on http://127.0.0.1:8000")     # the first time that the server is ready
    notifier.status("restarting: loading the weights")                  # whenever the state changes
    notifier.alive()                                                    # at least every `ping_every_s`, while it is well
    notifier.extend_start(60)                                           # while a long start goes on
    notifier.stopping(50)                                               # before it drains, which may take so long
"""

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends datagrams; one that cannot be delivered is left out, since serving matters more than telling of it."""

    def __init__(self, address: str | None, ping_every_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._ready = False
        self.ping_every_s = ping_every_s
        """Half of what the service manager waits for a ping, as it recommends; None when it waits for none."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Notifier":
        """`NOTIFY_SOCKET`; and `WATCHDOG_USEC`, where `WATCHDOG_PID` is this process or nobody in particular."""
        microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid()))
        ping_every_s = int(microseconds) / 2e6 if microseconds.isdigit() and int(microseconds) and meant else None
        return cls(environment.get("NOTIFY_SOCKET") or None, ping_every_s)

    def ready(self, status: str) -> None:
        """Questions are answered from now on; what depends on this service may start."""
        self._ready = True
        self._send(READY="1", STATUS=status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(STATUS=text)

    def alive(self) -> None:
        """A watchdog ping: to be sent only while it is well, so that silence restarts the service."""
        self._send(WATCHDOG="1")

    def extend_start(self, seconds: float) -> None:
        """A start goes on: it may take that much longer. Not for one that was ready before."""
        if not self._ready:
            self._send(EXTEND_TIMEOUT_USEC=str(int(seconds * 1e6)))

    def stopping(self, seconds: float) -> None:
        """It drains and ends, for which the service manager's own patience may be too short."""
        self._send(STOPPING="1", STATUS="stopping", EXTEND_TIMEOUT_USEC=str(int(seconds * 1e6)))

    def _send(self, **fields: str) -> None:
        if self._address is None:
            return
        # One line each: a text with a line break would be read as a field of its own.
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the service manager's socket: no child may speak for the service."""
    return {name: value for name, value in environment.items() if name not in _OURS}


_OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
