"""Who else hears of a server: the service manager by its socket, and Prometheus by the exporter that comes with it."""

import signal
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest

from serving.machine.port import free_port
from tests.unit.test_supervisor import asking, supervised


def test_the_service_manager_hears_of_start_health_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def until(field: str) -> str:
            while True:
                message = manager.recv(4096).decode()
                if field in message.split("\n"):
                    return message

        with supervised(tmp_path, drain_s=300) as running:
            assert "serving " in until("READY=1")
            until("WATCHDOG=1")
            with asking(running, tokens=50) as answers:
                running.process.send_signal(signal.SIGTERM)
                # Before the answer is done, and with the time that it may take: a service is killed after 60 s.
                assert "EXTEND_TIMEOUT_USEC=320000000" in until("STOPPING=1").split("\n")
                assert answers == []
            assert running.ends() == 0


def test_the_exporter_comes_and_goes_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("ONECARD_EXPORTER_PORT", str(port))
    with supervised(tmp_path) as running:
        running.until(200)
        children = psutil.Process(running.process.pid).children()
        (exporter,) = [child for child in children if "exporter" in child.cmdline()]
        log = tmp_path / str(running.port) / "exporter.log"
        while "/metrics" not in log.read_text():
            assert exporter.is_running(), log.read_text()
        assert "onecard_up 1.0" in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10, trust_env=False).text
        running.process.send_signal(signal.SIGTERM)
        assert running.ends() == 0
        assert not exporter.is_running()


def test_an_exporter_that_ends_is_said_to_have_ended_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a second onecard does, whose port the first one's has: nobody would miss it before it is needed."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("ONECARD_EXPORTER_PORT", str(other.getsockname()[1]))
        with supervised(tmp_path) as running:
            running.until(200)
            while "The exporter has ended" not in running.output.read_text():
                assert running.process.poll() is None
                time.sleep(0.1)
            assert f"Another program listens on 127.0.0.1:{other.getsockname()[1]}" in running.output.read_text()
            assert running.get("/ready").status_code == 200


def test_an_exporter_that_hangs_does_not_keep_the_server_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that asks a driver which has died."""
    monkeypatch.setenv("ONECARD_EXPORTER_PORT", str(free_port()))
    with supervised(tmp_path) as running:
        running.until(200)
        (exporter,) = [c for c in psutil.Process(running.process.pid).children() if "exporter" in c.cmdline()]
        exporter.suspend()
        running.process.send_signal(signal.SIGTERM)
        assert running.ends() == 0
