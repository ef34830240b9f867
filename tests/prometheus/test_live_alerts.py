"""Alerts that fire because what they warn of happens: a hot card, a slow answer, a full queue, a killed server, nobody
there.

The rules are those of `deploy/`, with seconds for their minutes; all alerts, these too, are tested with their real
durations by `promtool test rules` (test_rules.py).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.machine.port import free_port
from tests.conftest import Server
from tests.exporting import Card, exporting
from tests.prometheus.load import flood, load
from tests.prometheus.running import DEPLOY, running
from tests.prometheus.test_live import Watched
from tests.unit.test_supervisor import held_in_its_start, supervised

QUICK = {
    r"\[\d+m\]": "[20s]",
    r"offset \d+m": "offset 20s",
    r"for: \d+m": "for: 0s",
    # What five seconds are on a card, a CPU is slower than at once.
    r"p90_5m > 5\n": "p90_5m > 0.01\n",
}


@pytest.fixture(scope="module")
def watched(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("alerts")
    card = Card(folder)
    with exporting(server.state_dir, server.port, **card.environment) as exporter:
        targets = {"onecard": server.port, "onecard-exporter": exporter.port}
        with running(folder / "run", targets, quick=QUICK) as prometheus:
            prometheus.until("onecard_up == 1")
            yield Watched(prometheus, exporter, card)


def test_a_hot_card(watched: Watched) -> None:
    watched.card.tells(**{"nvmlDeviceGetTemperature.0": "91"})
    alert = watched.prometheus.until_firing("OnecardGpuHot")
    assert "91" in alert["annotations"]["summary"]
    watched.card.tells()


def test_a_card_held_down_by_heat(watched: Watched) -> None:
    watched.card.tells(nvmlDeviceGetCurrentClocksThrottleReasons="64")
    assert "hw_thermal" in watched.prometheus.until_firing("OnecardGpuThrottled")["annotations"]["summary"]
    watched.card.tells()


def test_an_error_of_the_driver(watched: Watched) -> None:
    watched.card.tells(nvmlEventSetWait_v2="79")
    alert = watched.prometheus.until_firing("OnecardGpuXid")
    assert (alert["labels"]["xid"], alert["labels"]["severity"]) == ("79", "critical")
    watched.card.tells()


def test_slow_first_tokens(server: Server, watched: Watched) -> None:
    with load(server):
        alert = watched.prometheus.until_firing("OnecardFirstTokenSlow")
    assert alert["labels"]["machine"] == "onecard"


def test_a_full_queue(server: Server, watched: Watched) -> None:
    with flood(server):
        alert = watched.prometheus.until_firing("OnecardRefusing")
    assert "%" in alert["annotations"]["summary"]


def test_a_killed_server_and_its_recovery(tmp_path: Path) -> None:
    """Of the real supervisor over a server without an engine, whose start can be held until the alert is there."""
    with (
        supervised(tmp_path) as supervisor,
        exporting(tmp_path, supervisor.port) as exporter,
        running(
            tmp_path / "run", {"onecard": supervisor.port, "onecard-exporter": exporter.port}, quick=QUICK
        ) as prometheus,
    ):
        supervisor.until(200)
        prometheus.until("machine:onecard_ready:bool == 1")
        started = held_in_its_start(supervisor)
        try:
            prometheus.until_firing("OnecardNotReady")
        finally:
            started.resume()
        prometheus.until_firing("OnecardRestarted")
        # The exporter was there all the while, and sees it come back.
        seen = exporter.until(lambda s: s['onecard_state{state="ready"}'] == 1)
        assert seen["onecard_restarts_total"] == 1
        prometheus.until("machine:onecard_ready:bool == 1")


def test_an_exporter_that_is_gone(watched: Watched) -> None:
    watched.exporter.process.kill()
    watched.prometheus.until_firing("OnecardExporterDown")


def test_nobody_there(tmp_path: Path) -> None:
    nobody = free_port()
    with (
        exporting(tmp_path, nobody) as exporter,
        running(tmp_path / "run", {"onecard": nobody, "onecard-exporter": exporter.port}, quick=QUICK) as prometheus,
    ):
        alert = prometheus.until_firing("OnecardDown")
    assert (DEPLOY.parent / alert["annotations"]["runbook_url"]).is_file()
