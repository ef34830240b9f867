"""What a service manager hears: a socket in its place."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.machine.notify import Notifier, child_environment


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def heard(manager: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_a_service_tells_its_life(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.extend_start(30)
    notifier.ready("serving onecard-demo")
    notifier.alive()
    notifier.status("restarting: loading\nREADY=1")
    notifier.stopping(50)
    assert heard(manager) == {"EXTEND_TIMEOUT_USEC": "30000000"}
    assert heard(manager) == {"READY": "1", "STATUS": "serving onecard-demo"}
    assert heard(manager) == {"WATCHDOG": "1"}
    assert heard(manager) == {"STATUS": "restarting: loading READY=1"}
    assert heard(manager) == {"STOPPING": "1", "STATUS": "stopping", "EXTEND_TIMEOUT_USEC": "50000000"}


def test_a_service_that_was_ready_asks_for_no_more_time_to_start(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.ready("x")
    notifier.extend_start(30)
    notifier.alive()
    assert "READY" in heard(manager)
    assert heard(manager) == {"WATCHDOG": "1"}


def test_an_abstract_socket_is_one_too() -> None:
    name = f"onecard-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        Notifier(f"@{name}").alive()
        assert heard(listening) == {"WATCHDOG": "1"}


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_where_nobody_listens_nothing_happens(environment: dict[str, str]) -> None:
    Notifier.from_environment(environment).ready("x")


@pytest.mark.parametrize(
    ("environment", "ping_every_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_pings_are_twice_as_often_as_they_are_waited_for(
    environment: dict[str, str], ping_every_s: float | None
) -> None:
    assert Notifier.from_environment(environment).ping_every_s == ping_every_s


def test_no_child_speaks_for_the_service() -> None:
    assert child_environment({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "PATH": "/bin"}) == {"PATH": "/bin"}
