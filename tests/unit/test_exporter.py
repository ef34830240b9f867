"""The exporter as its own process, scraped over HTTP: with a GPU, without one, and with a driver that fails or hangs."""

import os
import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from serving.guard.respond import probe
from serving.ipc.launch import Launch
from serving.ipc.status import status_body
from serving.machine.port import free_port
from serving.machine.state_dir import write_json
from serving.metrics import catalog
from serving.prepare import prepare
from tests import nvml
from tests.conftest import ONECARD
from tests.exporting import Card, exporting
from tests.listening import listening


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def test_a_gpu_is_told_in_base_units(tmp_path: Path, card: Card) -> None:
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        seen = exporter.until(lambda s: s["onecard_nvml_up"] == 1)
    assert seen['onecard_gpu_up{gpu="0"}'] == 1
    told = {name: int(value) for name, value in nvml.answers().items() if value.isdigit()}
    assert seen['onecard_gpu_memory_total_bytes{gpu="0"}'] == told["nvmlDeviceGetMemoryInfo.total"]
    assert seen['onecard_gpu_utilization_ratio{gpu="0"}'] == told["nvmlDeviceGetUtilizationRates.gpu"] / 100
    assert seen['onecard_gpu_power_watts{gpu="0"}'] == told["nvmlDeviceGetPowerUsage"] / 1e3
    assert seen['onecard_gpu_energy_joules_total{gpu="0"}'] == told["nvmlDeviceGetTotalEnergyConsumption"] / 1e3
    assert seen['onecard_gpu_clock_hertz{domain="sm",gpu="0"}'] == told["nvmlDeviceGetClockInfo.1"] * 1e6
    reasons = told["nvmlDeviceGetCurrentClocksThrottleReasons"]
    assert seen['onecard_gpu_throttled{gpu="0",reason="sw_power_cap"}'] == bool(reasons & 0x4)
    assert seen['onecard_gpu_throttled{gpu="0",reason="hw_thermal"}'] == bool(reasons & 0x40)
    received = told["nvmlDeviceGetPcieThroughput.1"] * 1e3
    assert seen['onecard_gpu_pcie_bytes_per_second{direction="received",gpu="0"}'] == received
    assert any(re.match(r'onecard_gpu_info\{.*name="NVIDIA H200"', name) for name in seen)
    # The card has no fan, and says so: nothing is told, and not 0.
    assert not any(name.startswith("onecard_gpu_fan") for name in seen)


def test_a_card_that_does_not_count_its_energy_has_it_summed(tmp_path: Path, card: Card) -> None:
    card.tells(nvmlDeviceGetTotalEnergyConsumption="!3")
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        first = exporter.until(lambda s: s.get('onecard_gpu_energy_joules_total{gpu="0"}', 0) > 0)
        # Some hundred watts for seconds, between two looks.
        joules = first['onecard_gpu_energy_joules_total{gpu="0"}']
        exporter.until(lambda s: s['onecard_gpu_energy_joules_total{gpu="0"}'] > joules + 400)


@pytest.mark.parametrize("error", ["!15", "!999", "!1"])
def test_a_card_lost_in_the_middle_is_told_as_lost_and_comes_back(error: str, tmp_path: Path, card: Card) -> None:
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        exporter.until(lambda s: s.get('onecard_gpu_up{gpu="0"}') == 1)
        card.tells(nvmlDeviceGetUtilizationRates="", **{"nvmlDeviceGetUtilizationRates.gpu": error})
        seen = exporter.until(lambda s: s['onecard_gpu_up{gpu="0"}'] == 0)
        assert not any(name.startswith(("onecard_gpu_memory", "onecard_gpu_power")) for name in seen)
        assert seen["onecard_host_memory_available_bytes"] > 0
        card.tells()
        exporter.until(lambda s: s['onecard_gpu_up{gpu="0"}'] == 1 and s["onecard_nvml_up"] == 1)


def test_a_lost_card_takes_no_other_cards_figures_with_it(tmp_path: Path, card: Card) -> None:
    two = {"nvmlDeviceGetCount_v2": "2", "nvmlDeviceGetHandleByIndex_v2.1": "0"}
    card.tells(**two)
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        exporter.until(lambda s: s.get('onecard_gpu_up{gpu="1"}') == 1)
        # NVML fails the wait for events too, and registering for them anew.
        card.tells(**two | {"nvmlDeviceGetHandleByIndex_v2.1": "!15", "nvmlEventSetWait_v2": "!15"})
        seen = exporter.until(lambda s: s['onecard_gpu_up{gpu="1"}'] == 0)
        assert (seen["onecard_nvml_up"], seen['onecard_gpu_up{gpu="0"}']) == (1, 1)
        assert seen['onecard_gpu_power_watts{gpu="0"}'] > 0
        card.tells(**two | {"nvmlDeviceGetHandleByIndex_v2.1": "!15", "nvmlEventSetWait_v2": "79"})
        seen = exporter.until(lambda s: s.get('onecard_gpu_xid_errors_total{gpu="0",xid="79"}') == 1)
        assert (seen["onecard_nvml_up"], seen['onecard_gpu_up{gpu="1"}']) == (1, 0)


def test_an_xid_is_counted_by_its_number(tmp_path: Path, card: Card) -> None:
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        exporter.until(lambda s: s.get('onecard_gpu_up{gpu="0"}') == 1)
        card.tells(nvmlEventSetWait_v2="79")
        exporter.until(lambda s: s.get('onecard_gpu_xid_errors_total{gpu="0",xid="79"}') == 1)


def test_a_driver_that_hangs_holds_up_no_scrape_and_shows_no_old_figures(tmp_path: Path, card: Card) -> None:
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        exporter.until(lambda s: s.get('onecard_gpu_up{gpu="0"}') == 1)
        card.hangs(True)
        seen = exporter.until(lambda s: s["onecard_nvml_up"] == 0)
        assert seen['onecard_gpu_up{gpu="0"}'] == 0
        assert 'onecard_gpu_power_watts{gpu="0"}' not in seen
        card.hangs(False)
        exporter.until(lambda s: s["onecard_nvml_up"] == 1)


def test_the_error_before_a_hang_stays_told(tmp_path: Path, card: Card) -> None:
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        card.tells(nvmlEventSetWait_v2="119")
        exporter.until(lambda s: s.get('onecard_gpu_xid_errors_total{gpu="0",xid="119"}') == 1)
        card.hangs(True)
        seen = exporter.until(lambda s: s["onecard_nvml_up"] == 0)
        assert seen['onecard_gpu_xid_errors_total{gpu="0",xid="119"}'] == 1
        card.hangs(False)


def test_without_a_driver_everything_else_is_told(tmp_path: Path) -> None:
    with exporting(tmp_path, free_port(), LD_LIBRARY_PATH=str(tmp_path)) as exporter:
        seen = exporter.scrape()
    if seen["onecard_nvml_up"]:
        pytest.skip("this machine has a GPU")
    assert (seen["onecard_up"], seen['onecard_state{state="stopped"}']) == (0, 1)
    assert seen['onecard_disk_free_bytes{folder="state"}'] > 0


class Server:
    """What answers `/onecard/status` in a server's place, to whoever has the key, and `/ready` to all; until it is gone,
    and another program answers on its port."""

    def __init__(self, launch: Launch, key: str) -> None:
        self._launch, self.key, self.state, self.gone = launch, key, "ready", False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.gone:
            await JSONResponse({}, 404)(scope, receive, send)
            return
        if answer := probe(scope, self.state, ready=self.state == "ready"):
            await answer(scope, receive, send)
            return
        known = dict(scope["headers"]).get(b"authorization") == f"Bearer {self.key}".encode()
        body = status_body(self._launch, state=self.state, measured={"memory_mib": {"weights": 7}}) | {"restarts": 3}
        await JSONResponse(body if known else {}, 200 if known else 401)(scope, receive, send)


def test_the_server_is_followed_through_its_end_with_the_key_that_it_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path))
    keys = tmp_path / "keys"
    keys.write_text("alice:a-key\n")
    plan = prepare("cpu", "demo", gpu_memory_mib=8192).plan
    launch = Launch(
        plan=plan,
        model_folder=tmp_path,
        default_max_tokens=256,
        host="127.0.0.1",
        port=1,
        run_dir=tmp_path,
        api_keys_file=keys,
    )
    server = Server(launch, "a-key")
    with listening(server) as port:
        folder = tmp_path / str(port)
        folder.mkdir()
        launch.model_copy(update={"port": port, "run_dir": folder}).write()
        write_json(folder / "server.json", {"pid": os.getpid(), "started_at": 1_700_000_000.0})
        write_json(folder / "timings.json", {f"{plan.profile} {tmp_path}": {"import": 4.0, "warmup": 0.5}})
        with exporting(tmp_path, port) as exporter:
            seen = exporter.until(lambda s: s["onecard_up"] == 1)
            assert seen['onecard_state{state="ready"}'] == 1
            assert seen['onecard_memory_measured_bytes{component="weights"}'] == 7 * 2**20
            assert seen["onecard_restarts_total"] == 3, "all cards', and each start has written down its own card's"
            assert seen['onecard_start_seconds{step="import"}'] == 4
            assert seen["onecard_supervisor_start_time_seconds"] == 1_700_000_000
            assert seen['onecard_process_resident_memory_bytes{role="supervisor"}'] > 2**20
            server.state = "draining"
            exporter.until(lambda s: s.get('onecard_state_seconds_total{state="draining"}', 0) > 0)
            # Started with a key that is not known here, it is there all the same.
            server.key = "another"
            time.sleep(3)  # some looks
            seen = exporter.scrape()
            assert (seen["onecard_up"], seen['onecard_state{state="draining"}']) == (1, 1)
            # The server goes; its plan stays known, and its process (the tests' own) is no onecard.
            server.gone = True
            seen = exporter.until(lambda s: s["onecard_up"] == 0)
            assert seen['onecard_state{state="stopped"}'] == 1
            assert seen['onecard_plan_limit{limit="kv_tokens"}'] == plan.capacity.kv_tokens
            assert "onecard_restarts_total" not in seen, "a count that goes down is a new start to Prometheus"
            # What cannot be read any more, as on a disk that does not answer, is not told as of now.
            (folder / "server.json").unlink()
            os.mkfifo(folder / "server.json")
            exporter.until(lambda s: 'onecard_state{state="stopped"}' not in s)


def test_everything_that_is_told_is_in_the_catalog(tmp_path: Path, card: Card) -> None:
    names = {metric.name for metric in catalog.ALL}
    with exporting(tmp_path, free_port(), **card.environment) as exporter:
        seen = exporter.until(lambda s: s["onecard_nvml_up"] == 1)
    assert {re.sub(r"\{.*", "", name) for name in seen} <= names


def test_a_taken_port_is_refused_in_words(tmp_path: Path) -> None:
    with exporting(tmp_path, free_port()) as exporter:
        second = subprocess.run(
            [*ONECARD, "exporter", "--listen-port", str(exporter.port)], capture_output=True, text=True, timeout=60
        )
    assert second.returncode == 8
    assert "--listen-port" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib\n"
        "from serving.exporter.exporter import start_child\n"
        "async def main():\n"
        f"    child = await start_child(1, pathlib.Path({str(tmp_path / 'exporter.log')!r}))\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [ONECARD[0], "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"ONECARD_STATE_DIR": str(tmp_path), "ONECARD_EXPORTER_PORT": str(free_port())},
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    log = tmp_path / "exporter.log"
    while b"/metrics" not in log.read_bytes():
        time.sleep(0.05)
    parent.kill()
    parent.communicate(timeout=20)
    assert child.wait(20) is None or not child.is_running()
